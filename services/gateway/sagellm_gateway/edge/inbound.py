"""What comes in from the bus: each subject becomes events of the core."""

import time
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from sagellm_common.bus import Bus, Limits, Received
from sagellm_common.codec import content_type_of, encode
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.frames import TokenFrame
from sagellm_common.contracts.generate import CancelReply
from sagellm_common.contracts.policy import LEADER_TTL_S, Leader
from sagellm_common.contracts.reports import EngineReport
from sagellm_common.contracts.scheduling import Assignment, Notice, OpenQuery
from sagellm_common.errors import Cancelled
from sagellm_gateway.core import events as ev
from sagellm_gateway.core.lifecycle import GatewayCore
from sagellm_gateway.edge.directory import EngineDirectory
from sagellm_gateway.edge.executor import Executor
from sagellm_gateway.edge.open_requests import parts
from sagellm_gateway.edge.reply_subject import is_callers_own
from sagellm_gateway.edge.tasks import Tasks

LEADER_KEY = "scheduler"
# Frames carry many tokens; a gateway that is this far behind loses some, counts them and asks for them again.
FRAME_LIMITS = Limits(messages=262_144, size_bytes=512 * 1024 * 1024)


class Inbound:
    """All subscriptions of one gateway except the public API."""

    def __init__(
        self, bus: Bus, gateway_id: str, core: GatewayCore, executor: Executor, directory: EngineDirectory, tasks: Tasks
    ) -> None:
        self._bus = bus
        self._gateway_id = gateway_id
        self._core = core
        self._executor = executor
        self._directory = directory
        self._tasks = tasks
        self._stops: list[Callable[[], Awaitable[None]]] = []

    async def start(self) -> None:
        """Subscribe and read who leads and which engines there are; returns once the server has it all."""
        bus, subjects, own = self._bus, self._bus.settings.subjects, self._gateway_id
        await bus.subscribe(subjects.tokens(own), TokenFrame, self._on_frame, limits=FRAME_LIMITS)
        await bus.subscribe(subjects.gateway_assign(own), Assignment, self._on_assignment)
        await bus.subscribe(subjects.gateway_notify(own), Notice, self._on_notice)
        await bus.subscribe(subjects.gateway_open(own), OpenQuery, self._on_open_query)
        await bus.subscribe(subjects.engine_metrics("*"), EngineReport, self._on_report)
        await self._subscribe_cancel(subjects.cancel("*"))
        leader = await bus.bucket(subjects.bucket("leader"), ttl_s=LEADER_TTL_S)
        engines = await bus.bucket(subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
        leading = await leader.follow(Leader, self._on_leader, self._on_no_leader, resync_s=1.0)
        self._stops.append(leading.stop)
        registered = await engines.follow(EngineRegistration, self._directory.put, self._directory.gone)
        self._stops.append(registered.stop)
        await bus.flush()

    async def stop(self) -> None:
        """Stop following; the subscriptions end with the bus."""
        for stop in self._stops:
            await stop()

    def _on_frame(self, frame: TokenFrame, received: Received) -> None:
        actions = self._core.take(frame.items, time.monotonic(), (frame.engine_id, frame.incarnation))
        if actions:
            self._executor.run(actions)

    def _on_assignment(self, assignment: Assignment, received: Received) -> None:
        self._executor.feed(ev.Assigned(assignment))

    def _on_notice(self, notice: Notice, received: Received) -> None:
        self._executor.feed(ev.Noticed(notice))

    def _on_report(self, report: EngineReport, received: Received) -> None:
        progress = report.progress.get(self._gateway_id, ())
        self._executor.feed(ev.Reported(report.engine_id, report.incarnation, progress))

    def _on_leader(self, key: str, leader: Leader) -> None:
        if key == LEADER_KEY:
            self._executor.feed(ev.LeaderChanged(leader.scheduler_id))

    def _on_no_leader(self, key: str) -> None:
        if key == LEADER_KEY:
            self._executor.feed(ev.LeaderChanged(None))

    def _on_open_query(self, query: OpenQuery, received: Received) -> None:
        self._tasks.spawn(self._answer_open(received.reply, received.content_type))

    async def _answer_open(self, reply: str, content_type: str) -> None:
        if not reply:
            return
        requests = self._core.open_requests(time.monotonic())
        for part in parts(self._gateway_id, requests, self._bus.max_payload // 2):
            await self._bus.publish(reply, part, content_type=content_type)

    async def _subscribe_cancel(self, subject: str) -> Subscription:
        """Listen to every client's cancel; the id stands in the subject, so that an empty body will do."""

        async def receive(msg: Msg) -> None:
            request_id = msg.subject.rsplit(".", 1)[1]
            if request_id not in self._core.requests:
                return
            self._executor.feed(ev.CancelAsked(request_id, Cancelled("the caller asked to stop")))
            if msg.reply and is_callers_own(msg.reply):
                await msg.respond(encode(CancelReply(found=True), content_type_of(msg.headers)))

        return await self._bus.client.subscribe(subject, cb=receive, pending_msgs_limit=65_536)
