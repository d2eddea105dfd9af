"""An engine alone: how it starts, registers, drains, leaves and fails."""

import asyncio
import shutil
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.registry import ModelQuery, ModelReply
from sagellm_common.errors import NotFound
from sagellm_common.nats_server import NatsServer, free_port
from sagellm_common.settings import BusSettings
from sagellm_common.subjects import encode_token
from support.engine_peer import EnginePeer
from support.processes import ServiceProcess, Services, ping
from support.wait import eventually, eventually_async

StartEngine = Callable[..., Awaitable[tuple[ServiceProcess, EnginePeer]]]
VLLM_FAMILIES = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:iteration_tokens_total_bucket",
)


async def _registration(bus: Bus, engine_id: str) -> EngineRegistration | None:
    bucket = await bus.bucket(bus.settings.subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
    found = await bucket.get(EngineRegistration, encode_token(engine_id))
    return None if found is None else found[0]


async def _unregistered(bus: Bus, engine_id: str, timeout_s: float = 10.0) -> None:
    async def gone() -> bool:
        return await _registration(bus, engine_id) is None

    await eventually_async(gone, timeout_s, f"the end of {engine_id}'s registration")


async def test_an_engine_registers_what_it_is(bus: Bus, start_engine: StartEngine) -> None:
    """The registration names role, model, sizes and process, and the engine answers as a micro service."""
    process, peer = await start_engine("host.1", engine_role="decode", max_model_len=512, num_pages=100)
    entry = peer.engine
    assert (entry.engine_id, entry.role, entry.models, entry.backend) == ("host.1", "decode", ("mock-model",), "mock")
    assert (entry.max_model_len, entry.num_pages, entry.pid) == (512, 100, process.pid)
    await process.up(bus)
    pongs = await ping(bus, "engine")
    assert [pong["name"] for pong in pongs] == ["sagellm-engine"]
    status = await peer.control("status")
    assert (status.state, status.running, status.waiting) == ("ready", 0, 0)


async def test_sigterm_drains_and_deregisters(bus: Bus, start_engine: StartEngine) -> None:
    """On SIGTERM what runs is finished and sent, the registration goes, and the process ends with 0."""
    process, peer = await start_engine(mock_step_ms=5)
    dispatch = peer.make(max_tokens=100)
    await peer.dispatch(dispatch)
    await eventually(lambda: bool(peer.frames))
    process.terminate()
    key = await peer.ended(dispatch)
    assert len(peer.tokens[key]) == 100
    await peer.ack(dispatch)
    assert await process.wait() == 0, process.log_text()
    await eventually(lambda: peer.reports[-1].state == "stopped")
    assert await _registration(bus, "e1") is None
    assert await ping(bus, "engine") == []


async def test_a_drain_that_takes_too_long_is_cut_off(bus: Bus, start_engine: StartEngine) -> None:
    """After drain_timeout_s the process leaves without telling an end: another engine can go on with the stream."""
    process, peer = await start_engine(mock_step_ms=5, drain_timeout_s=0.3)
    await peer.dispatch(peer.make(max_tokens=10_000))
    process.terminate()
    assert await process.wait() == 0, process.log_text()
    assert peer.ends == {}
    await _unregistered(bus, "e1")


async def test_a_second_signal_ends_it_at_once(start_engine: StartEngine) -> None:
    """Whoever asks twice does not wait for the drain."""
    process, peer = await start_engine(mock_step_ms=5)
    await peer.dispatch(peer.make(max_tokens=10_000))
    process.terminate()
    await peer.reported(lambda report: report.state == "draining")
    process.interrupt()
    assert await process.wait(5) == 130


async def test_the_registration_of_a_killed_engine_expires(bus: Bus, start_engine: StartEngine) -> None:
    """After kill -9 nobody removes the registration; the bucket's time to live does."""
    await bus.bucket(bus.settings.subjects.bucket("engines"), ttl_s=4)
    process, _ = await start_engine()
    await asyncio.sleep(5)  # longer than the time to live: only a renewed entry is still there
    assert await _registration(bus, "e1") is not None
    process.kill()
    await _unregistered(bus, "e1")


async def test_a_younger_process_takes_over_an_engine_id(
    bus: Bus, services: Services, start_engine: StartEngine
) -> None:
    """Of two processes with one engine id the older one notices, and ends with a sentence."""
    old, _ = await start_engine()
    new, peer = await start_engine()
    assert await old.wait() == 1
    assert "another process has taken the engine id e1" in old.log_text()
    await peer.run()
    registered = await _registration(bus, "e1")
    assert registered is not None
    assert registered.pid == new.pid


async def test_a_server_that_lost_its_storage_gets_the_registration_again(
    own_nats_server: NatsServer, services: Services
) -> None:
    """When the bucket is gone with the server's disk the engine creates it and registers as before."""
    settings = BusSettings(nats_url=own_nats_server.url, deployment="lost")
    bus = await Bus.connect(settings, "test")
    process = services.start("engine", settings, engine_id="e1", backend="mock")
    before = await process.registered(bus)
    own_nats_server.kill()
    shutil.rmtree(own_nats_server.store)
    own_nats_server.start()
    await eventually(lambda: bus.is_connected and bus.reconnects == 1)
    assert (await process.registered(bus)).incarnation == before.incarnation
    await bus.close()


async def test_metrics_carry_vllms_names(start_engine: StartEngine) -> None:
    """The metrics port shows the counters under our names and under vLLM's, with the model's name."""
    port = free_port()
    _, peer = await start_engine(metrics_port=port)
    await peer.run(max_tokens=7, prompt_token_ids=list(range(1, 41)))
    await peer.run(max_tokens=7, prompt_token_ids=list(range(1, 41)))

    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            body: bytes = answer.read()
            return body.decode()

    text = await asyncio.to_thread(scrape)
    assert 'vllm:generation_tokens_total{model_name="mock-model"} 14.0' in text
    assert 'sagellm_engine_generation_tokens_total{model_name="mock-model"} 14.0' in text
    assert 'vllm:prompt_tokens_total{model_name="mock-model"} 80.0' in text
    assert 'vllm:prefix_cache_queries_total{model_name="mock-model"} 80.0' in text
    assert 'vllm:prefix_cache_hits_total{model_name="mock-model"} 32.0' in text
    for family in VLLM_FAMILIES:
        assert f"\n{family}{{" in text


@pytest.mark.parametrize(
    ("settings", "code", "sentence"),
    [
        ({"engine_role": "boss"}, 2, "SAGELLM_ENGINE_ROLE"),
        ({"max_num_seqs": 0}, 2, "SAGELLM_MAX_NUM_SEQS"),
        ({"backend": "abacus"}, 1, "there is no backend named 'abacus'"),
        ({"max_num_seqs": 64, "max_batch_tokens": 8}, 1, "max_batch_tokens (8) is below max_num_seqs (64)"),
    ],
)
async def test_a_wrong_setting_stops_the_start_with_a_sentence(
    bus_settings: BusSettings, services: Services, tmp_path: Path, settings: dict[str, object], code: int, sentence: str
) -> None:
    """The process ends at once, and its last words name the setting at fault."""
    model = {} if "backend" not in settings else {"model": tmp_path}
    process = services.start("engine", bus_settings, **{"backend": "mock", "engine_id": "e1", **settings, **model})
    assert await process.wait() == code, process.log_text()
    assert sentence in process.log_text()
    assert "Traceback" not in process.log_text()


async def test_a_missing_bus_is_told_in_one_sentence(services: Services) -> None:
    """Without a NATS server the process ends after connect_timeout_s and says what to do."""
    nowhere = BusSettings(nats_url=f"nats://127.0.0.1:{free_port()}")
    process = services.start("engine", nowhere, backend="mock", connect_timeout_s=0.5)
    assert await process.wait() == 1
    assert "no NATS server answers" in process.log_text()
    assert "Traceback" not in process.log_text()


async def test_a_model_that_the_registry_does_not_have_stops_the_start(
    bus: Bus, bus_settings: BusSettings, services: Services
) -> None:
    """What is no folder is asked for at the registry, and its refusal is the engine's last word."""

    async def resolve(query: ModelQuery, received: Received) -> ModelReply:
        raise NotFound(f"no model named {query.model_id} is installed")

    await bus.serve(bus.settings.subjects.registry("resolve"), ModelQuery, resolve)
    process = services.start("engine", bus_settings, backend="cpu", model="org/none")
    assert await process.wait(40) == 1
    assert "no model named org/none is installed" in process.log_text()


async def test_an_engine_told_to_stop_while_it_waits_for_a_registry_stops(
    bus_settings: BusSettings, services: Services, bus: Bus
) -> None:
    """SIGTERM ends a start that has not come to its model yet."""
    asked = asyncio.Event()

    async def resolve(query: ModelQuery, received: Received) -> ModelReply:
        asked.set()
        await asyncio.sleep(60)
        raise NotFound("too late")

    await bus.serve(bus.settings.subjects.registry("resolve"), ModelQuery, resolve)
    process = services.start("engine", bus_settings, backend="cpu", model="org/slow")
    await asyncio.wait_for(asked.wait(), 20)
    process.terminate()
    assert await process.wait(5) == 0, process.log_text()
