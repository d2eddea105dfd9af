"""What the gateway takes in."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sagellm_common.bus import Bus
from sagellm_common.contracts.generate import GenerateRequest
from sagellm_common.errors import ResourceExhausted
from sagellm_gateway.core.actions import Action
from sagellm_gateway.core.lifecycle import GatewayCore
from sagellm_gateway.edge.directory import EngineDirectory, ModelSource
from sagellm_gateway.edge.models import TextModels
from sagellm_gateway.edge.service import GatewayService
from sagellm_gateway.generation.api import ServedModel
from sagellm_gateway.settings import GatewaySettings
from support.wait import eventually


async def test_requests_that_are_being_prepared_count_as_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """While tokenizing takes its time no more requests are held than allowed; the next is refused at once."""

    async def never(self: TextModels, source: ModelSource) -> None:
        await asyncio.Event().wait()

    def found(self: EngineDirectory, name: Any) -> ServedModel:
        return ServedModel("m", 256, 0, ("e1",))

    monkeypatch.setattr(TextModels, "get", never)
    monkeypatch.setattr(EngineDirectory, "find", found)
    settings = GatewaySettings(max_open_requests=2)
    service = GatewayService(cast(Bus, SimpleNamespace(settings=settings, drops=Counter())), settings)
    held = [asyncio.create_task(service.submit(GenerateRequest(prompt="once"))) for _ in range(2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        with pytest.raises(ResourceExhausted):
            await service.submit(GenerateRequest(prompt="once"))
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    retried = asyncio.create_task(service.submit(GenerateRequest(prompt="once")))
    await asyncio.sleep(0)
    assert not retried.done()
    retried.cancel()
    await asyncio.gather(retried, return_exceptions=True)


async def test_one_failed_tick_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fault in a tick the next ones come: deadlines and repairs of all other requests depend on them."""
    ticks = 0

    def tick(self: GatewayCore, now: float) -> list[Action]:
        nonlocal ticks
        ticks += 1
        if ticks == 1:
            raise KeyError("a fault of one request")
        return []

    monkeypatch.setattr(GatewayCore, "tick", tick)
    settings = GatewaySettings()
    bus = SimpleNamespace(settings=settings, drops=Counter(), connected_at=None)
    ticking = asyncio.create_task(GatewayService(cast(Bus, bus), settings)._tick())
    await eventually(lambda: ticks >= 3, what="the ticks after the fault")
    ticking.cancel()
    await asyncio.gather(ticking, return_exceptions=True)
