"""One gateway process per test, and its peers played by the test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sagellm_common.bus import Bus
from sagellm_common.settings import BusSettings
from support.gateway_peers import GATEWAY_ID, GatewayPeers
from support.processes import ServiceProcess, Services
from support.wait import eventually


@pytest.fixture
async def peers(bus: Bus, tmp_path: Path) -> AsyncIterator[GatewayPeers]:
    """Registry, leading scheduler and two engines."""
    played = GatewayPeers(bus, tmp_path)
    await played.open()
    yield played
    await played.close()


@pytest.fixture
async def gateway(bus: Bus, bus_settings: BusSettings, services: Services, peers: GatewayPeers) -> ServiceProcess:
    """The gateway under test, ready; its HTTP port is any free one."""
    process = services.start("gateway", bus_settings, gateway_id=GATEWAY_ID, port=0, drain_timeout_s=2)
    await process.up(bus)
    await eventually(lambda: bool(peers.heartbeats), what="a heartbeat")
    return process
