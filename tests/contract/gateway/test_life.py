"""Start and end of a gateway, and what it does while the bus, leader or engines are away."""

import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sagellm_common.bus import Bus
from sagellm_common.nats_server import NatsServer, free_port
from sagellm_common.settings import BusSettings
from support.gateway_peers import GATEWAY_ID, MODEL, Caller, GatewayPeers
from support.processes import ServiceProcess, Services
from support.wait import eventually


async def test_discovery_answers(bus: Bus, gateway: ServiceProcess) -> None:
    """`$SRV.PING`, `INFO` and `STATS` answer for the gateway, with its id."""
    for verb in ("PING", "INFO", "STATS"):
        reply = json.loads((await bus.client.request(f"$SRV.{verb}.sagellm-gateway", b"", timeout=5)).data)
        assert reply["metadata"]["gateway_id"] == GATEWAY_ID


async def test_heartbeats_name_the_incarnation(bus: Bus, own_gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """A heartbeat comes every second and says how many requests are open."""
    await Caller(bus).ask_for()
    await peers.engines["e1"].dispatched()
    await eventually(lambda: peers.heartbeats[-1].open_requests == 1, what="a heartbeat that counts the request")
    assert {beat.gateway_id for beat in peers.heartbeats} == {GATEWAY_ID}
    assert len({beat.incarnation for beat in peers.heartbeats}) == 1


async def test_sigterm_lets_open_requests_finish(bus: Bus, own_gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """A draining gateway leaves the queue group, finishes what is open, and ends with 0."""
    caller = await Caller(bus).ask_for()
    engine = peers.engines["e1"]
    dispatch = await engine.dispatched()
    own_gateway.terminate()
    await eventually(lambda: peers.heartbeats[-1].draining, what="a draining heartbeat")
    late = await Caller(bus).ask_for()
    await eventually(lambda: bool(late.messages), what="the answer to the late request")
    assert (late.messages[0].headers or {}).get("Status") == "503"
    await engine.send(dispatch, 0, peers.tokens(" fox"), finish="length")
    await caller.final()
    assert caller.text == " fox"
    assert await own_gateway.wait() == 0, own_gateway.log_text()


async def test_a_drain_that_takes_too_long_ends_with_an_error(
    bus: Bus, own_gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """What is not done within the drain time is cancelled, at the client and at the engine."""
    caller = await Caller(bus).ask_for()
    await peers.engines["e1"].dispatched()
    own_gateway.terminate()
    assert ((await caller.final()).error or {})["code"] == "unavailable"
    await eventually(lambda: bool(peers.engines["e1"].cancels), what="the cancel")
    assert await own_gateway.wait() == 0, own_gateway.log_text()


async def test_a_port_in_use_ends_the_start_with_a_sentence(bus_settings: BusSettings, services: Services) -> None:
    """The process says which address is taken and what to set, and ends with 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = services.start("gateway", bus_settings, port=taken.getsockname()[1])
        assert await process.wait() == 1
    assert "SAGELLM_PORT" in process.log_text()
    assert "Traceback" not in process.log_text()


async def test_no_bus_at_start_is_a_sentence(services: Services) -> None:
    """Without a NATS server the process names the address and ends with 1."""
    settings = BusSettings(nats_url=f"nats://127.0.0.1:{free_port()}")
    process = services.start("gateway", settings, port=0, connect_timeout_s=0.5)
    assert await process.wait() == 1
    assert "SAGELLM_NATS_URL" in process.log_text()
    assert "Traceback" not in process.log_text()


async def test_a_wrong_setting_is_a_sentence(bus_settings: BusSettings, services: Services) -> None:
    """A wrong value in the environment is named, and the process ends with 2."""
    process = services.start("gateway", bus_settings, port="many")
    assert await process.wait() == 2
    assert "SAGELLM_PORT" in process.log_text()


async def test_without_engines_a_request_is_unavailable(
    bus: Bus, bus_settings: BusSettings, services: Services
) -> None:
    """A gateway alone starts, and says that no engine has registered."""
    process = services.start("gateway", bus_settings, port=0)
    await process.up(bus)
    error = (await (await Caller(bus).ask_for()).final()).error or {}
    assert (error["code"], error["retry_after_s"]) == ("unavailable", 1.0)


async def test_a_request_waits_for_a_leader(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """While no scheduler leads, a request waits; the next leader gets it."""
    await peers.no_leader()
    caller = await Caller(bus).ask_for()
    await peers.event("accepted")
    await peers.lead("s2")
    engine = peers.engines["e1"]
    await engine.send(await engine.dispatched(), 0, peers.tokens(" fox"), finish="length")
    await caller.final()
    assert caller.text == " fox"


@pytest.fixture
async def own_bus(own_nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connection to a server that the test may restart."""
    connection = await Bus.connect(BusSettings(nats_url=own_nats_server.url, deployment="restart"), "test")
    yield connection
    await connection.close()


@pytest.fixture
async def slow_bus(own_bus: Bus) -> AsyncIterator[Bus]:
    """A caller's connection that waits two seconds between attempts, as NATS clients do by default."""
    connection = await Bus.connect(own_bus.settings, "caller")
    connection.client.options["reconnect_time_wait"] = 2.0
    yield connection
    await connection.close()


@pytest.fixture
async def own_peers(own_bus: Bus, tmp_path: Path) -> AsyncIterator[GatewayPeers]:
    """Peers on that server."""
    played = GatewayPeers(own_bus, tmp_path)
    await played.open()
    yield played
    await played.close()


@pytest.mark.timeout(60)
async def test_a_stream_survives_a_restart_of_the_bus(
    own_nats_server: NatsServer, own_bus: Bus, slow_bus: Bus, own_peers: GatewayPeers, services: Services
) -> None:
    """The NATS server is killed mid-stream and started again: the stream goes on where it was, in the same epoch.

    The caller comes back to the bus two seconds after the gateway, and misses nothing.
    """
    process = services.start("gateway", own_bus.settings, gateway_id=GATEWAY_ID, port=0)
    await process.up(own_bus)
    caller = await Caller(slow_bus).ask_for(model=MODEL)
    engine = own_peers.engines["e1"]
    dispatch = await engine.dispatched()
    tokens = own_peers.tokens(" the quick brown fox jumps")
    await engine.send(dispatch, 0, tokens[:2])
    await caller.has_text(own_peers.tokenizer.decode(tokens[:2]))
    own_nats_server.kill()
    await eventually(lambda: not own_bus.is_connected, what="the loss of the bus")
    own_nats_server.start()
    await eventually(lambda: own_bus.is_connected, what="the bus")
    beats = len(own_peers.heartbeats)
    await eventually(lambda: len(own_peers.heartbeats) > beats, what="the gateway on the new server")
    await engine.send(dispatch, 2, tokens[2:], finish="length")
    await caller.final(timeout_s=20.0)
    assert caller.text == " the quick brown fox jumps"
    assert len(engine.dispatches) == 1


async def test_the_gateway_needs_neither_torch_nor_transformers(gateway: ServiceProcess) -> None:
    """Nothing of the engine's heavy libraries is mapped into the running process."""
    maps = Path(f"/proc/{gateway.pid}/maps").read_text()
    assert "torch" not in maps
    assert "transformers" not in maps


async def test_an_idle_gateway_rests(gateway: ServiceProcess) -> None:
    """With nothing to do the process takes less than a tenth of a core."""
    import asyncio

    def cpu_s() -> float:
        fields = Path(f"/proc/{gateway.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100

    begin, started = cpu_s(), time.monotonic()
    await asyncio.sleep(1.0)
    assert (cpu_s() - begin) / (time.monotonic() - started) < 0.1
