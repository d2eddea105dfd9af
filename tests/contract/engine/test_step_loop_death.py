"""An engine whose step loop dies of a bug, against a real nats-server."""

import asyncio

import pytest

from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.reports import EngineReport
from sagellm_common.errors import Internal
from sagellm_common.settings import BusSettings
from sagellm_engine import factory
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.types import StepOutput
from sagellm_engine.service.main import serve
from sagellm_engine.settings import EngineSettings
from support.engine_peer import EnginePeer
from support.wait import eventually


async def test_an_engine_whose_loop_dies_says_so_and_leaves(
    bus: Bus, bus_settings: BusSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reports `stopped`, takes back its registration, and ends with the cause as an error."""
    create = factory.create_engine

    def create_faulty(config: EngineConfig) -> EngineCore:
        core = create(config)

        def step(now: float) -> StepOutput:
            raise ZeroDivisionError("a bug")

        core.step = step  # type: ignore[method-assign]  # the fault under test
        return core

    monkeypatch.setattr(factory, "create_engine", create_faulty)
    bucket = await bus.bucket(bus.settings.subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
    reports: list[EngineReport] = []

    def heard(report: EngineReport, received: Received) -> None:
        reports.append(report)

    await bus.subscribe(bus.settings.subjects.engine_metrics("e1"), EngineReport, heard)
    settings = EngineSettings(
        nats_url=bus_settings.nats_url, deployment=bus_settings.deployment, engine_id="e1", backend="mock"
    )
    engine = asyncio.create_task(serve(settings, asyncio.Event()))
    await eventually(lambda: bool(reports))
    found = await bucket.get(EngineRegistration, "e1")
    assert found is not None
    peer = EnginePeer(bus, found[0])
    await peer.dispatch(peer.make())
    with pytest.raises(Internal, match="ZeroDivisionError"):
        await asyncio.wait_for(engine, 10)
    assert await bucket.get(EngineRegistration, "e1") is None
    await eventually(lambda: reports[-1].state == "stopped")
