"""A model in a folder of the user's own, under a name of the user's choice, that no registry knows."""

import shutil
from importlib.resources import files
from pathlib import Path

import httpx

from sagellm_common.settings import BusSettings
from support.stack import LocalStack


async def test_a_folder_is_served_under_the_name_it_was_given(bus_settings: BusSettings, tmp_path: Path) -> None:
    """An engine with a local folder and a served name answers a chat: the gateway finds the text side by itself."""
    folder = tmp_path / "my-model"
    shutil.copytree(str(files("sagellm_registry") / "builtin" / "sage-tiny"), folder)
    stack = LocalStack(bus_settings, tmp_path)
    try:
        stack.start_rest()
        stack.start_scheduler("s1")
        stack.start_engine("e1", backend="cpu", model=folder, served_model_name="mine")
        await stack.ready()
        async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:
            body = {"model": "mine", "messages": [{"role": "user", "content": "What is 17 + 25?"}], "temperature": 0}
            reply = await client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        assert "42" in reply.json()["choices"][0]["message"]["content"]
    finally:
        stack.stop()
