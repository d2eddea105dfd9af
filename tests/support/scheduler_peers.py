"""Engines and gateways as a test plays them towards a real scheduler: only messages of the contract."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from sagellm_common.bus import Bucket, Bus, Received
from sagellm_common.contracts.decisions import DecisionRecord, ExplainRequest
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.policy import LEADER_TTL_S, Leader
from sagellm_common.contracts.scheduling import (
    Assignment,
    GatewayHeartbeat,
    Notice,
    OpenQuery,
    OpenReply,
    OpenRequest,
    SubmitReply,
)
from sagellm_common.errors import SageError
from sagellm_common.subjects import encode_token
from support.scheduling import registration, report, submit
from support.wait import eventually


class FakeEngine:
    """Registers and reports; what it reports is set by the test."""

    def __init__(self, bus: Bus, made: EngineRegistration) -> None:
        self.bus, self.registration = bus, made
        self.gauges: dict[str, Any] = {}
        self.is_reporting = True
        self._numbers = itertools.count(1)

    async def register(self, bucket: Bucket) -> None:
        await bucket.put(encode_token(self.registration.engine_id), self.registration)

    async def report(self) -> None:
        subject = self.bus.settings.subjects.engine_metrics(self.registration.engine_id)
        await self.bus.publish(subject, report(self.registration, next(self._numbers), **self.gauges))

    async def run(self) -> None:
        """Report ten times a second and renew the registration, while `is_reporting`."""
        bucket = await self.bus.bucket(self.bus.settings.subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
        await self.register(bucket)
        for count in itertools.count():
            with suppress(SageError):  # the bus may be gone for a while in a test
                if self.is_reporting:
                    await self.report()
                if self.is_reporting and count % 30 == 29:
                    await self.register(bucket)
            await asyncio.sleep(0.1)


class FakeGateway:
    """Submits, receives assignments and notices, tells its open requests, beats."""

    def __init__(self, bus: Bus, gateway_id: str = "g1") -> None:
        self.bus, self.gateway_id = bus, gateway_id
        self.subjects = bus.settings.subjects
        self.assignments: list[Assignment] = []
        self.notices: list[Notice] = []
        self.open: list[OpenRequest] = []
        self.asked_by: list[str] = []

    async def start(self) -> None:
        subjects = self.subjects
        await self.bus.subscribe(subjects.gateway_assign(self.gateway_id), Assignment, self._assigned)
        await self.bus.subscribe(subjects.gateway_notify(self.gateway_id), Notice, self._noticed)
        await self.bus.subscribe(subjects.gateway_open(self.gateway_id), OpenQuery, self._asked)
        await self.bus.flush()

    async def run(self) -> None:
        """Beat five times a second."""
        subject = self.subjects.gateway_heartbeat(self.gateway_id)
        beat = GatewayHeartbeat(gateway_id=self.gateway_id, incarnation="i1", open_requests=0)
        while True:
            with suppress(SageError):  # the bus may be gone for a while in a test
                await self.bus.publish(subject, beat)
            await asyncio.sleep(0.2)

    def _assigned(self, assignment: Assignment, received: Received) -> None:
        self.assignments.append(assignment)

    def _noticed(self, notice: Notice, received: Received) -> None:
        self.notices.append(notice)

    def _asked(self, query: OpenQuery, received: Received) -> None:
        self.asked_by.append(query.scheduler_id)
        self.bus.spawn(self._tell(received.reply))

    async def _tell(self, reply: str) -> None:
        """Tell the open requests in parts of two."""
        parts = [self.open[i : i + 2] for i in range(0, len(self.open), 2)] or [[]]
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            await self.bus.publish(reply, OpenReply(gateway_id=self.gateway_id, requests=part, part=number, last=last))

    async def submit(self, scheduler_id: str, request_id: str, **fields: Any) -> SubmitReply:
        """Submit a small request to a scheduler."""
        made = submit(request_id, gateway_id=self.gateway_id, **fields)
        return await self.bus.request(self.subjects.submit(scheduler_id), made, SubmitReply)

    async def end(self, request_id: str, phase: Any = "finished", **fields: Any) -> None:
        """Tell everybody that a request has ended."""
        event = RequestEvent(request_id=request_id, phase=phase, gateway_id=self.gateway_id, **fields)
        await self.bus.publish(self.subjects.request_event(phase), event)

    def assigned(self, request_id: str) -> list[Assignment]:
        return [assignment for assignment in self.assignments if assignment.request_id == request_id]

    async def assignment(self, request_id: str, epoch: int = 0) -> Assignment:
        """Wait for the assignment of one epoch and return it."""

        def found() -> list[Assignment]:
            return [a for a in self.assigned(request_id) if a.epoch == epoch]

        await eventually(lambda: bool(found()), what=f"the assignment of {request_id}")
        return found()[0]

    async def explain(self, request_id: str) -> DecisionRecord:
        return await self.bus.request(self.subjects.explain, ExplainRequest(request_id=request_id), DecisionRecord)


class Surroundings:
    """The engines and the gateway that a test plays, and the tasks that keep them alive."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.gateway = FakeGateway(bus)
        self._tasks: list[asyncio.Task[None]] = []

    def engine(self, engine_id: str, **fields: Any) -> FakeEngine:
        """Let an engine live."""
        engine = FakeEngine(self.bus, registration(engine_id, **fields))
        self._tasks.append(asyncio.create_task(engine.run()))
        return engine

    async def leader(self, *, other_than: str = "", timeout_s: float = 10.0) -> str:
        """Wait for a leader and return its id."""
        bucket = await self.bus.bucket(self.bus.settings.subjects.bucket("leader"), ttl_s=LEADER_TTL_S)
        found: list[str] = []
        async with asyncio.timeout(timeout_s):
            while not found:
                with suppress(SageError):  # the bus may be gone for a while in a test
                    entry = await bucket.get(Leader, "scheduler")
                    if entry is not None and entry[0].scheduler_id != other_than:
                        found.append(entry[0].scheduler_id)
                await asyncio.sleep(0.02)
        return found[0]

    async def ready(self, scheduler_id: str, engines: int = 1) -> None:
        """Wait until a scheduler leads and has placed a probe on each of so many engines."""
        seen: set[str] = set()
        async with asyncio.timeout(10):
            for number in itertools.count():
                probe = f"probe-{scheduler_id}-{number}"
                with suppress(SageError):  # it may not listen or not know the engines yet
                    reply = await self.gateway.submit(scheduler_id, probe)
                    if reply.status == "queued":
                        seen.add((await self.gateway.assignment(probe)).engine_id)
                        await self.gateway.end(probe, "cancelled")
                if len(seen) >= engines:
                    return
                await asyncio.sleep(0.05)

    @classmethod
    @asynccontextmanager
    async def on(cls, bus: Bus) -> AsyncIterator["Surroundings"]:
        """Play a gateway, and the engines that the test adds, until the block ends."""
        made = cls(bus)
        await made.gateway.start()
        made._tasks.append(asyncio.create_task(made.gateway.run()))
        try:
            yield made
        finally:
            for task in made._tasks:
                task.cancel()
            await asyncio.gather(*made._tasks, return_exceptions=True)
