"""Fixtures that every suite shares: a real nats-server, and connections to it."""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sagellm_common.bus import Bus
from sagellm_common.nats_server import NatsServer
from sagellm_common.settings import BusSettings
from support.processes import Services

# A busy machine makes any example slow; the tests' own timeout is the limit.
settings.register_profile("sagellm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sagellm")

_deployments = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the packed weights of tests, and of the processes they start, out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGELLM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One real nats-server for the whole run; a test that stops or restarts a server starts its own."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server for this test alone."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bus_settings(nats_server: NatsServer) -> BusSettings:
    """Settings of a fresh deployment on the shared server, so that tests do not see each other."""
    return BusSettings(nats_url=nats_server.url, deployment=f"test{next(_deployments)}")


@pytest.fixture
async def bus(bus_settings: BusSettings) -> AsyncIterator[Bus]:
    """A connection to the fresh deployment."""
    connection = await Bus.connect(bus_settings, "test")
    yield connection
    await connection.close()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """Starts real service processes for this test and ends them with it."""
    started = Services(tmp_path)
    yield started
    started.stop()
