"""An engine alone, with the built-in model on the CPU."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import sagellm_registry
from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.registry import ModelInfo, ModelQuery, ModelReply
from sagellm_common.settings import BusSettings
from support.engine_peer import EnginePeer
from support.processes import ServiceProcess, Services

StartEngine = Callable[..., Awaitable[tuple[ServiceProcess, EnginePeer]]]
MODEL = Path(sagellm_registry.__file__).parent / "builtin" / "sage-tiny"

pytestmark = pytest.mark.skipif(
    not (MODEL / "model.safetensors").exists(), reason="the built-in model is not there yet"
)


async def test_the_built_in_model_answers(bus: Bus, start_engine: StartEngine) -> None:
    """The engine finds its default model through the registry and streams the same greedy tokens each time."""

    async def resolve(query: ModelQuery, received: Received) -> ModelReply:
        return ModelReply(model=ModelInfo(model_id=query.model_id, path=str(MODEL), source="builtin"))

    await bus.serve(bus.settings.subjects.registry("resolve"), ModelQuery, resolve)
    _, peer = await start_engine(backend="cpu", threads=1, num_pages=256)
    assert peer.engine.models == ("sage-tiny",)
    assert peer.engine.backend == "cpu"
    assert peer.engine.kind.endswith("/sage-tiny@main")
    prompt = list(range(20, 60))
    dispatches = [peer.make(prompt_token_ids=prompt, max_tokens=24, ignore_eos=True, logprobs=1) for _ in range(2)]
    keys = []
    for dispatch in dispatches:
        await peer.dispatch(dispatch)
        keys.append(await peer.ended(dispatch))
    assert len(peer.tokens[keys[0]]) == 24
    assert peer.tokens[keys[0]] == peer.tokens[keys[1]]
    assert peer.gaps == []
    whole = await peer.resend(dispatches[1], 0)
    assert (whole.token_ids, whole.finish) == (peer.tokens[keys[1]], "length")
    cached = max(i.cached_tokens for f in peer.frames for i in f.items if i.request_id == dispatches[1].request_id)
    assert cached == 32
    await peer.ack(*dispatches)
    await peer.idle()


async def test_a_folder_needs_no_registry(start_engine: StartEngine) -> None:
    """SAGELLM_MODEL may be a folder; SAGELLM_SERVED_MODEL_NAME is the name that requests use."""
    _, peer = await start_engine(
        backend="cpu", threads=1, num_pages=64, model=MODEL, served_model_name="tiny", max_model_len=256
    )
    assert (peer.engine.models, peer.engine.max_model_len) == (("tiny",), 256)
    key = await peer.run(prompt_token_ids=[5, 6, 7], max_tokens=3, ignore_eos=True)
    assert len(peer.tokens[key]) == 3


async def test_an_engine_told_to_stop_while_it_loads_stops(bus_settings: BusSettings, services: Services) -> None:
    """SIGTERM in the middle of a load ends the process with 0, without waiting for the model and without a crash."""
    process = services.start("engine", bus_settings, engine_id="e1", backend="cpu", model=MODEL)
    await process.logged("model_loading")
    process.terminate()
    assert await process.wait() == 0, process.log_text()
    assert "engine_ready" not in process.log_text()
    assert "Traceback" not in process.log_text()
