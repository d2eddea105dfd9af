"""One stack with the built-in model for the whole end-to-end suite."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from sagellm_common.bus import Bus
from sagellm_common.nats_server import NatsServer
from sagellm_common.settings import BusSettings
from support.stack import LocalStack


@pytest.fixture(scope="session")
def e2e_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusSettings]:
    """A server of this suite's own: `$SRV` is one for all deployments of a server."""
    server = NatsServer(tmp_path_factory.mktemp("e2e-nats"))
    server.start()
    yield BusSettings(nats_url=server.url, deployment="e2e")
    server.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(e2e_settings: BusSettings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStack]:
    """Registry, scheduler, one CPU engine with the built-in model, gateway."""
    running = LocalStack(e2e_settings, tmp_path_factory.mktemp("stack"))
    running.start_rest()
    running.start_scheduler("s1")
    running.start_engine("e1", backend="cpu", model="sage-tiny")
    await running.ready()
    yield running
    running.stop()


@pytest.fixture
async def e2e_bus(e2e_settings: BusSettings) -> AsyncIterator[Bus]:
    connection = await Bus.connect(e2e_settings, "e2e-test")
    yield connection
    await connection.close()
