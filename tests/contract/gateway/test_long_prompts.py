"""Streams beside prompts that take long to tokenize."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from sagellm_common.bus import Bus
from sagellm_common.contracts.dispatch import Dispatch
from sagellm_common.nats_server import free_port
from sagellm_common.settings import BusSettings
from sagellm_gateway.text.model import TextModel
from support.gateway_peers import GATEWAY_ID, MODEL, Caller, GatewayPeers, PlayedEngine
from support.processes import Services
from support.wait import eventually

NUM_PROMPTS = 2


@pytest.fixture
async def peers(bus: Bus, tmp_path: Path) -> AsyncIterator[GatewayPeers]:
    """Engines whose context lets a prompt of megabytes be tokenized before it is found too long."""
    played = GatewayPeers(bus, tmp_path)
    await played.open(max_model_len=65_536)
    yield played
    await played.close()


def _words(num_words: int) -> str:
    """Words that no tokenizer has seen, nor keeps in a cache."""
    letters = random.Random(1)
    return " ".join("".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=9)) for _ in range(num_words))


def _slow_prompt(texts: TextModel) -> tuple[str, float]:
    """A prompt that takes more than a second to tokenize on this machine, and how long it took, in seconds."""
    num_words = 100_000
    while True:
        prompt = _words(num_words)
        begin = time.perf_counter()
        texts.encode(prompt, add_special=True)
        took_s = time.perf_counter() - begin
        if took_s > 1.0:
            return prompt, took_s
        num_words = int(num_words * 1.3 / took_s)


async def _gap(caller: Caller, engine: PlayedEngine, dispatch: Dispatch, token: int) -> float:
    """Send one token, and return the seconds until the caller has it."""
    begin, have = time.perf_counter(), len(caller.messages)
    await engine.send(dispatch, have - 1, [token])
    await eventually(lambda: len(caller.messages) > have, 30.0, what="the token")
    return time.perf_counter() - begin


async def test_tokenizing_a_huge_prompt_holds_no_stream_up(
    bus: Bus, bus_settings: BusSettings, services: Services, peers: GatewayPeers
) -> None:
    """While prompts that take seconds are prepared, another stream's largest gap stays far below one of them."""
    prompt, inline_s = _slow_prompt(TextModel.load(peers.folder))
    port = free_port()
    gateway = services.start("gateway", bus_settings, gateway_id=GATEWAY_ID, port=port, log_level="debug")
    await gateway.up(bus)
    caller = await Caller(bus).ask_for(sampling={"max_tokens": 4096})
    engine, (token, *_) = peers.engines["e1"], peers.tokens(" fox")
    dispatch = await engine.dispatched()
    await eventually(lambda: bool(caller.messages), what="the acceptance")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, verify=False) as client:
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 1}
        preparing = [asyncio.create_task(client.post("/v1/completions", json=body)) for _ in range(NUM_PROMPTS)]
        begin = time.perf_counter()
        gaps = [await _gap(caller, engine, dispatch, token)]
        while not all(task.done() for task in preparing):
            gaps.append(await _gap(caller, engine, dispatch, token))
        took_s = time.perf_counter() - begin
    answers = [await task for task in preparing]
    assert {answer.status_code for answer in answers} == {400}
    assert all("tokens; the model's context" in answer.json()["error"]["message"] for answer in answers)
    assert took_s > inline_s / 2, "preparing took less than it should: nothing was measured"
    assert max(gaps) < inline_s / 4, (max(gaps), inline_s)
