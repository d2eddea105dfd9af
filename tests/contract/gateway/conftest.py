"""A gateway process, and its peers played by the test.

Most tests share one process, each with peers of its own; `own_gateway` is a process for one test alone.
"""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sagellm_common.bus import Bus
from sagellm_common.nats_server import NatsServer
from sagellm_common.settings import BusSettings
from support.gateway_peers import GATEWAY_ID, GatewayPeers
from support.processes import ServiceProcess, Services
from support.wait import eventually

_deployments = itertools.count()


@pytest.fixture(scope="session")
def shared_settings(nats_server: NatsServer) -> BusSettings:
    """The deployment of the shared gateway."""
    return BusSettings(nats_url=nats_server.url, deployment="gateway-contract")


@pytest.fixture(scope="session")
def shared_gateway(shared_settings: BusSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One gateway for many tests; its HTTP port is any free one."""
    started = Services(tmp_path_factory.mktemp("gateway"))
    yield started.start("gateway", shared_settings, gateway_id=GATEWAY_ID, port=0)
    started.stop()


@pytest.fixture
def bus_settings(request: pytest.FixtureRequest, nats_server: NatsServer) -> BusSettings:
    """The shared gateway's deployment for tests that use it, a fresh one for the others."""
    if "gateway" in request.fixturenames:
        return request.getfixturevalue("shared_settings")
    return BusSettings(nats_url=nats_server.url, deployment=f"gateway-own-{next(_deployments)}")


@pytest.fixture
async def peers(bus: Bus, tmp_path: Path) -> AsyncIterator[GatewayPeers]:
    """Registry, leading scheduler and two engines."""
    played = GatewayPeers(bus, tmp_path)
    await played.open()
    yield played
    await played.close()


@pytest.fixture
async def gateway(bus: Bus, shared_gateway: ServiceProcess, peers: GatewayPeers) -> ServiceProcess:
    """The gateway under test, ready."""
    await shared_gateway.up(bus)
    return shared_gateway


@pytest.fixture
async def own_gateway(bus: Bus, bus_settings: BusSettings, services: Services, peers: GatewayPeers) -> ServiceProcess:
    """A gateway that the test may end."""
    process = services.start("gateway", bus_settings, gateway_id=GATEWAY_ID, port=0, drain_timeout_s=2)
    await process.up(bus)
    await eventually(lambda: bool(peers.heartbeats), what="a heartbeat")
    return process
