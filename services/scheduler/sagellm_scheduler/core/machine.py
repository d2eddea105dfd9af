"""The scheduler core: one event in, the actions it calls for out."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.contracts.scheduling import Notice, OpenRequest, Submit, SubmitReply
from sagellm_common.errors import Cancelled, InvalidArgument, SageError, Unavailable
from sagellm_scheduler.core import events, records
from sagellm_scheduler.core.actions import Action, AskEngine, AskGateway, Notify, PublishRecord, Reply
from sagellm_scheduler.core.admission import predicted_refusal, refusal
from sagellm_scheduler.core.config import CoreConfig
from sagellm_scheduler.core.dispatcher import Dispatcher
from sagellm_scheduler.core.engine import Engine
from sagellm_scheduler.core.fleet import Fleet
from sagellm_scheduler.core.gateways import ASK_AGAIN_S, Gateways
from sagellm_scheduler.core.requests import Request
from sagellm_scheduler.core.watch import Watch


class SchedulerCore:
    """Admits, orders and places requests; learns what it needs from engines and gateways, never sees a body.

    `handle` must be called with a `now` that never decreases, in seconds. It raises nothing for bad messages: a
    Submitted is always answered by exactly one Reply. `counts` counts what was dropped, by reason.
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.fleet = Fleet(config)
        self.dispatcher = Dispatcher(config, self.fleet)
        self.gateways = Gateways()
        self.leader_epoch: LeaderEpoch | None = None
        self.counts: Counter[str] = Counter()
        self._watch = Watch()
        self._next_reconcile = 0.0
        self._handlers: dict[type[Any], Callable[[Any, float], None]] = {
            events.Submitted: self._submitted,
            events.EngineRegistered: self._engine_registered,
            events.EngineGone: self._engine_gone,
            events.EngineReported: self._engine_reported,
            events.CacheChanged: self._cache_changed,
            events.CacheLearnt: self._cache_learnt,
            events.GatewaySeen: self._gateway_seen,
            events.RequestEnded: self._request_ended,
            events.OpenLearnt: self._open_learnt,
            events.PolicyChanged: self._policy_changed,
            events.LeadershipGained: self._gained,
            events.LeadershipLost: self._lost_leadership,
            events.BusUp: self._bus_up,
            events.BusDown: self._bus_down,
            events.Tick: self._tick,
        }

    @property
    def is_leader(self) -> bool:
        return self.leader_epoch is not None

    def handle(self, event: events.Event, now: float) -> list[Action]:
        """Take one event at `now` and return what is to be done, in order."""
        self._handlers[type(event)](event, now)
        actions, self.dispatcher.actions = self.dispatcher.actions, []
        return actions

    def _act(self, action: Action) -> None:
        self.dispatcher.actions.append(action)

    # submits

    def _submitted(self, event: events.Submitted, now: float) -> None:
        submit, known = event.submit, self.dispatcher.book.get(event.submit.request_id)
        if not self.is_leader:
            self._reject(submit, Unavailable(f"{self.config.scheduler_id} is not the leader", retry_after_s=0.25))
        elif (old := self._old_epoch(submit, known)) is not None:
            self._reject(submit, old)
        elif known is not None and known.epoch == submit.epoch:
            self._reply(submit, SubmitReply(status="queued", position=known.position))
            self.dispatcher.repeat(known, now)
        else:
            self._admit(submit, known, now)

    def _old_epoch(self, submit: Submit, known: Request | None) -> SageError | None:
        """Return why a submit must be dropped as not being the newest of its request, or None."""
        ended = self.dispatcher.book.ended(submit.request_id)
        if known is None and ended is not None and submit.epoch <= ended.epoch:
            self.counts["submit_after_end"] += 1
            return ended.error or Cancelled("the request has ended already")
        if known is not None and known.submit.gateway_id != submit.gateway_id:
            self.counts["submit_of_another_gateway"] += 1
            return InvalidArgument("another gateway has a request with this id", param="request_id")
        if known is not None and submit.epoch < known.epoch:
            self.counts["submit_of_older_epoch"] += 1
            return Cancelled(f"epoch {known.epoch} has taken the place of epoch {submit.epoch}")
        return None

    def _admit(self, submit: Submit, known: Request | None, now: float) -> None:
        if known is not None:
            self.dispatcher.withdraw(known)
        waiting = len(self.dispatcher.queues)
        error = refusal(
            submit,
            self.fleet,
            num_waiting=waiting,
            max_queue=self.config.max_queue,
            retry_after_s=self.dispatcher.rate.retry_after_s(waiting, now),
        )
        prospect = None if error is not None else self.dispatcher.prospect(submit, now)
        error = error or predicted_refusal(submit, prospect, self.config.admission_slack)
        if error is not None:
            self._refuse(submit, known, error, now)
            return
        request = self.dispatcher.open(submit, now, former=known, is_partial=submit.epoch > 0)
        request.prospect = prospect
        self.dispatcher.enqueue(request, now)
        predicted_ms = None if prospect is None else round(prospect.ttft_s * 1e3, 3)
        reply = SubmitReply(status="queued", position=request.position, predicted_ttft_ms=predicted_ms)
        self._act(Reply(submit.request_id, submit.epoch, reply, is_new=True))
        self.dispatcher.dispatch(submit.model, now)

    def _refuse(self, submit: Submit, known: Request | None, error: SageError, now: float) -> None:
        decisions = []
        if known is not None:
            self.dispatcher.drop(known)
            decisions = known.decisions
        self._reject(submit, error)
        self._act(PublishRecord(records.rejected_record(submit, decisions, error), merge=submit.epoch > 0))

    def _reject(self, submit: Submit, error: SageError) -> None:
        self._reply(submit, SubmitReply(status="rejected", error=error.to_dict()))

    def _reply(self, submit: Submit, reply: SubmitReply) -> None:
        self._act(Reply(submit.request_id, submit.epoch, reply))

    # engines

    def _engine_registered(self, event: events.EngineRegistered, now: float) -> None:
        former = self.fleet.register(event.registration, now)
        if former is not None and not former.is_lost:
            self._announce_loss(former)
        engine = self.fleet.get(event.registration.engine_id)
        if engine is not None and engine.is_ready:
            self._unpark(engine, now)
            self._dispatch_for(engine, now)

    def _engine_gone(self, event: events.EngineGone, now: float) -> None:
        self.fleet.unregister(event.engine_id)

    def _engine_reported(self, event: events.EngineReported, now: float) -> None:
        before = self.fleet.get(event.report.engine_id)
        was_ready = before is not None and before.is_ready
        engine = self.fleet.report(event.report, now)
        if engine is None or not engine.is_ready:
            return
        self._compare_cache(engine, event.report.kv_number, now)
        if not was_ready:
            self._unpark(engine, now)
        if engine.has_room():
            self._dispatch_for(engine, now)

    def _cache_changed(self, event: events.CacheChanged, now: float) -> None:
        engine = self.fleet.cache_changed(event.events)
        if engine is not None:
            self._ask_for_cache(engine, now)

    def _compare_cache(self, engine: Engine, kv_number: int, now: float) -> None:
        """Ask an engine whose report names an event that we have not had when its last report came: it is lost, or
        older than we are."""
        if max(0, self.fleet.kv.number(engine.slot)) < engine.kv_number:
            self._ask_for_cache(engine, now)
        engine.kv_number = kv_number

    def _ask_for_cache(self, engine: Engine, now: float) -> None:
        if now - engine.asked_at >= ASK_AGAIN_S:
            engine.asked_at = now
            self._act(AskEngine(engine.engine_id))

    def _cache_learnt(self, event: events.CacheLearnt, now: float) -> None:
        self.fleet.cache_learnt(event.snapshot)

    def _unpark(self, engine: Engine, now: float) -> None:
        for model in engine.registration.models:
            self.dispatcher.unpark(model, now)

    def _dispatch_for(self, engine: Engine, now: float) -> None:
        for model in engine.registration.models:
            self.dispatcher.dispatch(model, now)

    def _announce_loss(self, engine: Engine) -> None:
        if not self.is_leader:
            return
        for gateway_id in self.gateways.ids():
            notice = Notice(kind="engine_lost", engine_id=engine.engine_id, incarnation=engine.incarnation)
            self._act(Notify(gateway_id, notice))

    # gateways

    def _gateway_seen(self, event: events.GatewaySeen, now: float) -> None:
        former = self.gateways.seen(event.gateway_id, event.incarnation, now)
        if not self.is_leader:
            return
        if former is not None:
            self._drop_requests_of(event.gateway_id, until=former.seen_at)
        self._ask_gateways(now)

    def _drop_requests_of(self, gateway_id: str, until: float) -> None:
        """Drop what a gateway that is gone had submitted; what came later is of its next incarnation."""
        for request in self.dispatcher.book:
            if request.submit.gateway_id == gateway_id and request.queued_at <= until:
                self.dispatcher.drop(request)

    def _ask_gateways(self, now: float) -> None:
        for gateway_id in self.gateways.to_ask(now):
            self._act(AskGateway(gateway_id))

    def _request_ended(self, event: events.RequestEnded, now: float) -> None:
        if self.is_leader:
            self.dispatcher.end(event.event, now)
            self.dispatcher.dispatch_all(now)

    def _open_learnt(self, event: events.OpenLearnt, now: float) -> None:
        if not self.is_leader:
            return
        self.gateways.learnt(event.gateway_id)
        for item in event.requests:
            self._learn(item, now)
        self._drop_unknown(event, now)
        self.dispatcher.dispatch_all(now)

    def _learn(self, item: OpenRequest, now: float) -> None:
        known = self.dispatcher.book.get(item.submit.request_id)
        if self._old_epoch(item.submit, known) is not None:
            return
        if known is not None and known.epoch == item.submit.epoch:
            if known.assignment is None and item.assignment is not None:
                self.dispatcher.queues.take_out(known)
                self.dispatcher.settle(known, item.assignment, now)
            return
        if known is not None:
            self.dispatcher.withdraw(known)
        request = self.dispatcher.open(item.submit, now, former=known, is_partial=True)
        if item.assignment is None:
            self.dispatcher.enqueue(request, now)
        else:
            self.dispatcher.settle(request, item.assignment, now)

    def _drop_unknown(self, event: events.OpenLearnt, now: float) -> None:
        """Close what the gateway no longer has open, unless it is too young for the list to tell."""
        open_ids = {item.submit.request_id for item in event.requests}
        for request in self.dispatcher.book:
            is_old = request.queued_at < event.asked_at - self.config.reconcile_every_s
            if is_old and request.submit.gateway_id == event.gateway_id and request.request_id not in open_ids:
                self.counts["request_end_unheard"] += 1
                self.dispatcher.drop(request)

    # policy and leadership

    def _policy_changed(self, event: events.PolicyChanged, now: float) -> None:
        self.dispatcher.queues.change_policy(event.queue)
        self.dispatcher.router = event.router
        self.dispatcher.separation = event.separation or self.dispatcher.separation
        self.dispatcher.dispatch_all(now)

    def _gained(self, event: events.LeadershipGained, now: float) -> None:
        self.dispatcher.clear()
        self.leader_epoch = self.dispatcher.leader_epoch = event.leader_epoch
        self.gateways.forget_learnt()
        self._next_reconcile = now + self.config.reconcile_every_s
        self._ask_gateways(now)
        for engine in self.fleet:
            if engine.is_lost:
                self._announce_loss(engine)

    def _lost_leadership(self, event: events.LeadershipLost, now: float) -> None:
        self.leader_epoch = None
        self.dispatcher.clear()

    # time

    def _bus_up(self, event: events.BusUp, now: float) -> None:
        self._watch.up(now)

    def _bus_down(self, event: events.BusDown, now: float) -> None:
        self._watch.down()

    def _tick(self, event: events.Tick, now: float) -> None:
        self._watch.tick(now)
        if self._watch.since is not None:
            for engine in self.fleet.silent(now, self._watch.since):
                self._announce_loss(engine)
            for gateway_id in self.gateways.silent(now, self._watch.since, self.config.gateway_timeout_s):
                self._drop_requests_of(gateway_id, until=now)
        self.fleet.age(now)
        if self.is_leader:
            self.dispatcher.expire(now)
            self.dispatcher.review(now)
            self._reconcile(now)
            self.dispatcher.dispatch_all(now)

    def _reconcile(self, now: float) -> None:
        """Ask gateways that have not told yet, and every so often those with requests that have been open for long."""
        self._ask_gateways(now)
        if now < self._next_reconcile:
            return
        self._next_reconcile = now + self.config.reconcile_every_s
        limit = now - self.config.reconcile_every_s
        for gateway_id in sorted({r.submit.gateway_id for r in self.dispatcher.book if r.queued_at < limit}):
            self._act(AskGateway(gateway_id))
