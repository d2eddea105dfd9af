"""Feeds the core with events and the clock, and hands its actions on."""

import asyncio
import time
from collections.abc import Callable

import structlog

from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.scheduling import Submit, SubmitReply
from sagellm_common.contracts.slo import Slo
from sagellm_common.errors import Internal, SageError
from sagellm_scheduler.core import events
from sagellm_scheduler.core.actions import Action, AskEngine, AskGateway, Assign, Notify, PublishRecord, Reply
from sagellm_scheduler.core.config import CoreConfig
from sagellm_scheduler.core.machine import SchedulerCore
from sagellm_scheduler.metrics import SchedulerMetrics
from sagellm_scheduler.service.asking import ask_open, ask_snapshot
from sagellm_scheduler.service.live_policy import LivePolicy
from sagellm_scheduler.service.outbox import Outbox
from sagellm_scheduler.service.spans import Spans
from sagellm_scheduler.settings import SchedulerSettings

log = structlog.get_logger(__name__)
TICK_S = 0.05
OBSERVE_EVERY_TICKS = 10


class Conductor:
    """Owns the core. Every event is handled at once on the event loop; nothing is decided after the lease has run out.

    `start` takes the word of the lease; before it the scheduler is a standby.
    """

    def __init__(
        self, settings: SchedulerSettings, bus: Bus, outbox: Outbox, metrics: SchedulerMetrics, policy: LivePolicy
    ) -> None:
        self._settings, self._bus, self._outbox, self._metrics = settings, bus, outbox, metrics
        self._may_lead: Callable[[], bool] = lambda: False
        self._spans = Spans()
        self._is_up, self._reconnects = False, 0
        self._task: asyncio.Task[None] | None = None
        self._core = SchedulerCore(
            CoreConfig(
                scheduler_id=settings.scheduler_id,
                queue=policy.queue,
                router=policy.router,
                separation=policy.separation,
                wall_offset_s=time.time() - time.monotonic(),
                max_queue=settings.max_queue,
                max_queue_time_s=settings.max_queue_time_s,
                engine_timeout_s=settings.engine_timeout_s,
                default_slo=Slo(ttft_ms=settings.slo_ttft_ms, itl_ms=settings.slo_itl_ms),
                backlog_s=settings.backlog_s,
                admission_slack=settings.admission_slack,
            )
        )

    def start(self, may_lead: Callable[[], bool]) -> None:
        """Begin to tick; `may_lead` says whether the lease is ours now."""
        self._may_lead = may_lead
        self._task = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        """Tick no longer; the core stands by from now on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._core.handle(events.LeadershipLost(), time.monotonic())

    def feed(self, event: events.Event) -> None:
        """Handle one event and hand on what it calls for."""
        self._perform(self._handle(event))

    def serves(self, model: str) -> bool:
        """Whether an engine of the model is known, ready or not."""
        return self._core.fleet.longest_context(model) is not None

    async def submit(self, submit: Submit, received: Received) -> SubmitReply:
        """Answer a submit; an assignment may be on its way before the answer is."""
        self._spans.submitted(submit.request_id)
        actions = self._handle(events.Submitted(submit))
        answer = next((action for action in actions if isinstance(action, Reply)), None)
        if answer is None:
            raise Internal("the scheduler's core did not answer")
        if answer.is_new:
            self._outbox.tell(self._queued(submit))
        if answer.reply.error is not None:
            self._metrics.rejected.labels(str(answer.reply.error.get("code"))).inc()
        self._perform(actions)
        return answer.reply

    def _queued(self, submit: Submit) -> RequestEvent:
        return RequestEvent(
            request_id=submit.request_id,
            phase="queued",
            epoch=submit.epoch,
            gateway_id=submit.gateway_id,
            model=submit.model,
            time_s=time.time(),
        )

    def _handle(self, event: events.Event) -> list[Action]:
        if self._core.is_leader and not self._may_lead():
            self._core.handle(events.LeadershipLost(), time.monotonic())
        began_ns, began = time.time_ns(), time.perf_counter_ns()
        actions = self._core.handle(event, time.monotonic())
        took_ns = time.perf_counter_ns() - began
        made = [action for action in actions if isinstance(action, Assign)]
        for action in made:
            self._assign(action, began_ns, began_ns + took_ns)
            if not action.is_repeat:
                self._metrics.decision_time.observe(took_ns / 1e9 / len(made))
        return actions

    def _assign(self, action: Assign, began_ns: int, ended_ns: int) -> None:
        inside = self._spans.assigned(action, began_ns, ended_ns)
        self._outbox.assign(action, inside, ended_ns / 1e9)
        if not action.is_repeat:
            self._metrics.queue_time.observe(action.queued_s)
            dispatcher = self._core.dispatcher
            self._metrics.decisions.labels(dispatcher.queues.policy.name, dispatcher.router.name).inc()

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Notify):
                self._notify(action)
            elif isinstance(action, PublishRecord):
                self._outbox.keep(action)
                if action.record.outcome is not None:
                    self._spans.ended(action.record.request_id)
            elif isinstance(action, AskGateway):
                self._bus.spawn(self._ask(action.gateway_id))
            elif isinstance(action, AskEngine):
                self._bus.spawn(self._ask_engine(action.engine_id))

    def _notify(self, action: Notify) -> None:
        self._outbox.notify(action)
        if action.notice.kind == "rejected" and action.notice.error is not None:
            self._metrics.rejected.labels(str(action.notice.error.get("code"))).inc()
        elif action.notice.kind == "engine_lost":
            log.warning("engine_lost", engine_id=action.notice.engine_id, told=action.gateway_id)

    async def _ask_engine(self, engine_id: str) -> None:
        try:
            self.feed(events.CacheLearnt(await ask_snapshot(self._bus, engine_id, self._settings.scheduler_id)))
        except SageError as error:
            log.warning("prefix_cache_not_learnt", engine_id=engine_id, error=error.message)

    async def _ask(self, gateway_id: str) -> None:
        asked_at = time.monotonic()
        try:
            requests = await ask_open(self._bus, gateway_id, self._settings.scheduler_id)
        except SageError as error:
            log.warning("open_requests_unknown", gateway_id=gateway_id, error=error.message)
        else:
            self.feed(events.OpenLearnt(gateway_id, requests, asked_at))

    async def _tick(self) -> None:
        count = 0
        while True:
            try:
                self._watch_bus()
                self.feed(events.Tick())
                if count % OBSERVE_EVERY_TICKS == 0:
                    self._metrics.observe(self._core)
            except Exception:
                log.exception("tick_failed")
            count += 1
            await asyncio.sleep(TICK_S)

    def _watch_bus(self) -> None:
        was_interrupted = self._bus.reconnects != self._reconnects
        if self._is_up and (was_interrupted or not self._bus.is_connected):
            self.feed(events.BusDown())
        if self._bus.is_connected and (was_interrupted or not self._is_up):
            self.feed(events.BusUp())
        self._is_up, self._reconnects = self._bus.is_connected, self._bus.reconnects
