"""A stack whose engines come and go as the planner says."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog

from sagellm.launcher.readiness import connect
from sagellm_common import tasks
from sagellm_common.bus import Bus
from sagellm_common.contracts.dispatch import ControlReply, ControlRequest
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration, EngineRole
from sagellm_common.contracts.plan import FleetPlan
from sagellm_common.errors import SageError

if TYPE_CHECKING:
    from sagellm.launcher.stack import Stack

log = structlog.get_logger(__name__)
ASK_S = 0.2
CONTROL_TIMEOUT_S = 2.0
MOST_FAILURES = 5
"""An engine that does not answer so often while the bus is there hangs, and is ended."""


class LocalScaler:
    """Engines as processes of a stack. What is to go is drained: it ends once nothing runs on it any more."""

    def __init__(self, stack: "Stack", bus: Bus) -> None:
        self._stack, self._bus = stack, bus
        self._leaving: dict[str, asyncio.Task[None]] = {}

    async def count(self, model: str, role: EngineRole) -> int:
        """Engines that were started and not told to go."""
        return len(self._stack.engines(role))

    async def scale(self, model: str, role: EngineRole, count: int, num_open: Mapping[str, int]) -> None:
        """Start engines, or drain those with the fewest requests; raises Unavailable if one cannot be started.

        The engines are asked themselves how many they have: the launcher does not listen to their reports.
        """
        engines = self._stack.engines(role)
        for _ in range(count - len(engines)):
            await self._stack.add_engine(role)
        if count < len(engines):
            for name in (await self._by_requests(engines))[: len(engines) - count]:
                self._stack.release(name)
                task = self._leaving[name] = asyncio.create_task(self._leave(name))
                task.add_done_callback(lambda _, name=name: self._leaving.pop(name, None))  # type: ignore[misc]

    async def stop(self) -> None:
        """Wait for nobody."""
        await tasks.end(*self._leaving.values())

    async def _by_requests(self, engines: list[str]) -> list[str]:
        """Those with the fewest requests first, and of these the youngest; who does not answer has none."""
        replies = await asyncio.gather(*map(self._status, engines), return_exceptions=True)
        youngest_first = list(zip(engines, map(_num_open, replies), strict=True))[::-1]
        return [name for name, _ in sorted(youngest_first, key=lambda engine: engine[1])]

    async def _status(self, name: str) -> ControlReply:
        return await self._control(name, ControlRequest(action="status"))

    async def _control(self, name: str, request: ControlRequest) -> ControlReply:
        subject = self._bus.settings.subjects.engine_control(name)
        return await self._bus.request(subject, request, ControlReply, timeout_s=CONTROL_TIMEOUT_S)

    async def _leave(self, name: str) -> None:
        """Have an engine take nothing new, wait until it is empty, end it."""
        failures = 0
        while self._stack.is_ready(name) and failures < MOST_FAILURES:
            try:
                reply = await self._control(name, ControlRequest(action="drain"))
            except SageError as error:
                failures += self._bus.is_connected
                log.info("drain_not_answered", engine_id=name, error=error.message)
            else:
                failures = 0
                if not _num_open(reply):
                    break
            await asyncio.sleep(ASK_S)
        await self._stack.remove_engine(name)


def _num_open(reply: ControlReply | BaseException) -> int:
    return 0 if isinstance(reply, BaseException) else int(reply.detail.get("requests_open", 0))


class Scaling:
    """Follows the plans in the bucket `plans` for what the engines of a stack serve."""

    def __init__(self, stack: "Stack") -> None:
        self._stack = stack
        self._began_s = time.time()
        self._plans: dict[str, FleetPlan] = {}
        self._models: set[str] = set()
        self._has_come = asyncio.Event()
        self._open = AsyncExitStack()

    async def start(self) -> None:
        """Connect and follow; raises Unavailable if the bus cannot be had."""
        bus = await connect(self._stack.plan.nats_url, self._stack.config.deployment)
        self._open.push_async_callback(bus.close)
        names = bus.settings.subjects.bucket
        engines = await bus.bucket(names("engines"), ttl_s=ENGINES_TTL_S)
        registrations = await engines.follow(EngineRegistration, self._registered, lambda key: None)
        self._open.push_async_callback(registrations.stop)
        plans = await bus.bucket(names("plans"))
        self._open.push_async_callback((await plans.follow(FleetPlan, self._planned, lambda key: None)).stop)
        scaler = LocalScaler(self._stack, bus)
        self._open.push_async_callback(scaler.stop)
        task = asyncio.create_task(self._scale(scaler))
        self._open.push_async_callback(tasks.end, task)

    async def stop(self) -> None:
        """Scale no more; safe to call twice."""
        await self._open.aclose()

    def _registered(self, key: str, registration: EngineRegistration) -> None:
        if self._stack.answers(registration.engine_id, registration.pid):
            self._models.update(registration.models)
            self._has_come.set()

    def _planned(self, key: str, plan: FleetPlan) -> None:
        if plan.time_s >= self._began_s:  # an older one is that of another stack on this bus
            self._plans[plan.model] = plan
            self._has_come.set()

    async def _scale(self, scaler: LocalScaler) -> None:
        from sagellm_scheduler.planner.scaler import follow

        while True:
            await self._has_come.wait()
            self._has_come.clear()
            for plan in [self._plans.pop(model) for model in self._models & self._plans.keys()]:
                try:
                    await follow(plan, scaler, {})
                except SageError as error:
                    log.warning("not_scaled", model=plan.model, error=error.message)
                except Exception:
                    log.exception("scaling_failed", model=plan.model)
