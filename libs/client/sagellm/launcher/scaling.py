"""A stack whose engines come and go as the planner says."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from sagellm.launcher.readiness import connect
from sagellm_common.bus import Bus
from sagellm_common.contracts.dispatch import ControlReply, ControlRequest
from sagellm_common.contracts.engines import EngineRole
from sagellm_common.contracts.plan import FleetPlan
from sagellm_common.errors import SageError

if TYPE_CHECKING:
    from sagellm.launcher.stack import Stack

log = structlog.get_logger(__name__)
ASK_S = 0.2
CONTROL_TIMEOUT_S = 2.0


class LocalScaler:
    """Engines as processes of a stack. What is to go is drained: it ends once nothing runs on it any more."""

    def __init__(self, stack: "Stack", bus: Bus) -> None:
        self._stack, self._bus = stack, bus
        self._leaving: dict[str, asyncio.Task[None]] = {}

    async def count(self, model: str, role: EngineRole) -> int:
        """Engines that were started and not told to go."""
        return len(self._engines(role))

    async def scale(self, model: str, role: EngineRole, count: int, num_open: Mapping[str, int]) -> None:
        """Start engines, or drain those with the fewest requests; raises Unavailable if one cannot be started."""
        engines = self._engines(role)
        for _ in range(count - len(engines)):
            await self._stack.add_engine(role)
        for name in sorted(engines, key=lambda name: num_open.get(name, 0))[: max(0, len(engines) - count)]:
            self._leaving[name] = asyncio.create_task(self._leave(name))

    async def stop(self) -> None:
        """Wait for nobody."""
        for task in self._leaving.values():
            task.cancel()
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)

    def _engines(self, role: EngineRole) -> list[str]:
        return [
            name
            for name, child in self._stack.children.items()
            if child.spec.kind == "engine"
            and child.spec.env.get("SAGELLM_ENGINE_ROLE", "hybrid") == role
            and name not in self._leaving
        ]

    async def _leave(self, name: str) -> None:
        """Drain an engine, wait until it is empty, end it."""
        try:
            subject = self._bus.settings.subjects.engine_control(name)
            action: ControlRequest = ControlRequest(action="drain")
            while True:
                reply = await self._bus.request(subject, action, ControlReply, timeout_s=CONTROL_TIMEOUT_S)
                if not reply.detail.get("requests_open"):
                    break
                action = ControlRequest(action="status")
                await asyncio.sleep(ASK_S)
        except SageError as error:
            log.warning("engine_not_drained", engine_id=name, error=error.message)
        await self._stack.remove_engine(name)
        del self._leaving[name]


class Scaling:
    """Follows the bucket `plans`, one plan after the other."""

    def __init__(self, stack: "Stack") -> None:
        self._stack = stack
        self._newest: FleetPlan | None = None
        self._has_come = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and follow; raises Unavailable if the bus cannot be had."""
        self._bus = await connect(self._stack.plan.nats_url, self._stack.config.deployment)
        self._scaler = LocalScaler(self._stack, self._bus)
        plans = await self._bus.bucket(self._bus.settings.subjects.bucket("plans"))
        self._follower = await plans.follow(FleetPlan, self._planned, lambda key: None)
        self._task = asyncio.create_task(self._scale())

    async def stop(self) -> None:
        """Scale no more."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._scaler.stop()
        await self._follower.stop()
        await self._bus.close()
        self._task = None

    def _planned(self, key: str, plan: FleetPlan) -> None:
        self._newest = plan
        self._has_come.set()

    async def _scale(self) -> None:
        from sagellm_scheduler.planner.scaler import follow

        while True:
            await self._has_come.wait()
            self._has_come.clear()
            plan = self._newest
            if plan is None:
                continue
            try:
                await follow(plan, self._scaler, {})
            except SageError as error:
                log.warning("not_scaled", error=error.message)
