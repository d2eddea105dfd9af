"""One engine process, mock backend, and a peer that plays gateway and scheduler."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from sagellm_common.bus import Bus
from sagellm_common.settings import BusSettings
from support.engine_peer import EnginePeer
from support.processes import ServiceProcess, Services

StartEngine = Callable[..., Awaitable[tuple[ServiceProcess, EnginePeer]]]


@pytest.fixture
async def start_engine(bus: Bus, bus_settings: BusSettings, services: Services) -> AsyncIterator[StartEngine]:
    """Starts an engine with the given settings and returns its process and a peer that is connected to it."""
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
