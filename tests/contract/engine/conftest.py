"""Engine processes with the mock backend, and peers that play gateway and scheduler."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from sagellm_common.bus import Bus
from sagellm_common.nats_server import NatsServer
from sagellm_common.settings import BusSettings
from support.engine_peer import EnginePeer
from support.processes import ServiceProcess, Services

StartEngine = Callable[..., Awaitable[tuple[ServiceProcess, EnginePeer]]]


@pytest.fixture
async def start_engine(bus: Bus, bus_settings: BusSettings, services: Services) -> AsyncIterator[StartEngine]:
    """Starts an engine of its own for a test and returns its process and a peer that is connected to it."""
    peers: list[EnginePeer] = []

    async def start(engine_id: str = "e1", **settings: object) -> tuple[ServiceProcess, EnginePeer]:
        process = services.start("engine", bus_settings, engine_id=engine_id, **{"backend": "mock", **settings})
        peer = EnginePeer(bus, await process.registered(bus))
        peers.append(peer)
        await peer.open()
        return process, peer

    yield start
    for peer in peers:
        await peer.close()


class EnginePool:
    """Engine processes that tests share, one for each set of settings, started when first asked for."""

    def __init__(self, bus_settings: BusSettings, services: Services) -> None:
        self.bus_settings, self._services = bus_settings, services
        self._processes: dict[tuple[tuple[str, object], ...], ServiceProcess] = {}

    def get(self, **settings: object) -> ServiceProcess:
        """Return the engine with these settings; one that has died is started again."""
        key = tuple(sorted(settings.items()))
        process = self._processes.get(key)
        if process is None or process.exit_code is not None:
            engine_id = f"shared{len(self._processes)}"
            process = self._services.start("engine", self.bus_settings, engine_id=engine_id, backend="mock", **settings)
            self._processes[key] = process
        return process


@pytest.fixture(scope="session")
def engine_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnginePool]:
    """The engines that tests share, on a server of their own: `$SRV.PING` of other suites must not find them."""
    services = Services(tmp_path_factory.mktemp("engines"))
    server = NatsServer(tmp_path_factory.mktemp("engines-nats"))
    server.start()
    yield EnginePool(BusSettings(nats_url=server.url), services)
    services.stop()
    server.stop()


_gateways = itertools.count(1)


@pytest.fixture
async def shared_engine(engine_pool: EnginePool) -> AsyncIterator[StartEngine]:
    """Like `start_engine`, with a process that other tests use too; what a test leaves running is cancelled."""
    bus = await Bus.connect(engine_pool.bus_settings, "test")
    peers: list[EnginePeer] = []

    async def start(**settings: object) -> tuple[ServiceProcess, EnginePeer]:
        process = engine_pool.get(**settings)
        peer = EnginePeer(bus, await process.registered(bus), f"gw.{next(_gateways)}")
        peers.append(peer)
        await peer.open()
        return process, peer

    yield start
    for peer in peers:
        await peer.leave_nothing()
        await peer.close()
    await bus.close()
