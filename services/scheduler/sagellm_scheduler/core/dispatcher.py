"""Open requests on their way: queued, placed on an engine, withdrawn, given up."""

from dataclasses import replace

from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.scheduling import Assignment, Notice, PrefillAssignment, Submit
from sagellm_common.errors import DeadlineExceeded, ResourceExhausted, SageError, Unavailable
from sagellm_scheduler.core import records
from sagellm_scheduler.core.actions import Action, Assign, Notify, PublishRecord
from sagellm_scheduler.core.config import CoreConfig
from sagellm_scheduler.core.demand import Demand, effective
from sagellm_scheduler.core.estimates import AnswerLengths, ServiceRate, age_s, context_tokens, num_seqs
from sagellm_scheduler.core.fleet import Fleet
from sagellm_scheduler.core.placement import Blocked, Placed, place
from sagellm_scheduler.core.prospects import prospect
from sagellm_scheduler.core.queues import Queues
from sagellm_scheduler.core.requests import Ended, Prospect, Request, RequestBook, State
from sagellm_scheduler.core.reservations import Reservation
from sagellm_scheduler.core.timers import Limit, Timers

LEAST_TOKENS = 8
"""Answers with fewer tell little about the time per token."""


class Dispatcher:
    """Owns the open requests and their queues; what it wants done is appended to `actions`.

    Every open request is in exactly one place: a queue, the parking place, or assigned with its load reserved on one
    engine until it is released, acknowledged and ended, or expired.
    """

    def __init__(self, config: CoreConfig, fleet: Fleet) -> None:
        self.config = config
        self.fleet = fleet
        self.book = RequestBook()
        self.queues = Queues(config.queue)
        self.router = config.router
        self.separation = config.separation
        self.rate = ServiceRate()
        self.leader_epoch: LeaderEpoch = (0, 0)
        self.actions: list[Action] = []
        self._lengths = AnswerLengths()
        self._timers = Timers()
        self._count = 0

    # a request begins

    def open(self, submit: Submit, now: float, *, former: Request | None = None, is_partial: bool = False) -> Request:
        """Make a request the open one of its id; a former epoch must have been withdrawn."""
        self._count += 1
        arrival = now - age_s(submit)
        queued_at = arrival if submit.epoch == 0 else now
        slo = effective(submit.slo, self.config.default_slo)
        request = Request(submit, arrival, queued_at, self._count, is_partial=is_partial, slo=slo)
        if former is not None:
            request.decisions, request.is_partial = former.decisions, former.is_partial
        self.book.open(request)
        return request

    def enqueue(self, request: Request, now: float) -> None:
        """Let a request wait for an engine; it is placed by the next `dispatch`."""
        request.position = self.queues.num_waiting(request.submit.model)
        if request.prospect is None:
            request.prospect = self.prospect(request.submit, now)
        self.queues.put(request)
        self._timers.set(max(now, request.queued_at + self.config.max_queue_time_s), Limit.QUEUE_TIME, request)
        deadline_ms = request.submit.slo.deadline_ms
        if deadline_ms is not None:
            self._timers.set(max(now, request.arrival + deadline_ms / 1e3), Limit.DEADLINE, request)

    # a request is placed

    def dispatch(self, model: str, now: float) -> None:
        """Place requests of a model in the order of the queue, until the queue is empty or its head has no room."""
        while (request := self.queues.head(model)) is not None:
            demand = self.demand(request.submit, now - request.arrival, now, self.queues.num_waiting(model))
            placed = place(demand, self.fleet, self.router, self.separation, backlog_s=self.config.backlog_s)
            if placed is Blocked.BUSY:
                request.parked_since = None
                if not self._make_way(model, now):
                    return
                continue
            if isinstance(placed, Placed):
                if placed.is_late(demand) and self.queues.give_way(request):
                    continue
                self.queues.serve(request)
                self._assign(request, placed, now)
            else:
                self._park(request, now)

    def _make_way(self, model: str, now: float) -> bool:
        """Let those give way without which most of the others are in time; returns whether another is next now."""
        if not self.queues.minds_time(model):
            return False
        engines, busy_s = self.fleet.working_off(model, now)
        return engines > 0.0 and self.queues.keep_in_time(model, now + busy_s, engines)

    def demand(self, submit: Submit, waited_s: float, now: float, waiting: int) -> Demand:
        """Return what a request asks of an engine if it is placed after so long, being one of so many that wait."""
        return Demand(
            submit,
            kv_tokens=self._lengths.kv_tokens(submit),
            answer=self._lengths.answer(submit),
            waited_s=waited_s,
            slo=effective(submit.slo, self.config.default_slo),
            now=now,
            typical=self._lengths.typical(submit.model),
            waiting=waiting,
        )

    def prospect(self, submit: Submit, now: float) -> Prospect | None:
        """Return what a request has to expect that joins the queue now; None if no engine could take it."""
        waiting = self.queues.num_waiting(submit.model)
        return prospect(
            self.demand(submit, age_s(submit), now, waiting + 1),
            self.fleet,
            seconds_before=self.queues.seconds_waiting(submit.model),
            slots_wait_s=self.rate.wait_s(waiting + 1, now),
        )

    def review(self, now: float) -> None:
        """Let the queue policy look at the load."""
        self.queues.review(self.rate.wait_s(len(self.queues), now) if len(self.queues) else 0.0, now)

    def dispatch_all(self, now: float) -> None:
        """Try every queue."""
        for model in self.queues.models():
            self.dispatch(model, now)

    def unpark(self, model: str, now: float) -> None:
        """Queue again what was set aside for a model, now that an engine is ready."""
        for request in self.queues.take_parked(model):
            request.prospect = request.prospect or self.prospect(request.submit, now)
            self.queues.put(request)

    def _park(self, request: Request, now: float) -> None:
        self.queues.park(request)
        if request.parked_since is None:
            request.parked_since = now
            self._timers.set(now + self.config.no_engine_timeout_s, Limit.NO_ENGINE, request)

    def _assign(self, request: Request, placed: Placed, now: float) -> None:
        engine, giver = placed.engine, placed.prefill
        prefill = None
        if giver is not None:
            number = self.fleet.take_turn(giver)
            prefill = PrefillAssignment(engine_id=giver.engine_id, incarnation=giver.incarnation, number=number)
        assignment = Assignment(
            request_id=request.request_id,
            epoch=request.epoch,
            engine_id=engine.engine_id,
            incarnation=engine.incarnation,
            leader_epoch=self.leader_epoch,
            number=self.fleet.take_turn(engine),
            dispatch_timeout_ms=self.config.dispatch_timeout_s * 1e3,
            prefill=prefill,
            itl_ms=effective(request.submit.slo, self.config.default_slo).itl_ms,
        )
        request.expected = placed.expected
        self.settle(request, assignment, now)
        self.rate.served(now)
        self._note(request, placed, assignment, now)
        model, gateway_id = request.submit.model, request.submit.gateway_id
        self.actions.append(Assign(gateway_id, assignment, model, now - request.queued_at))
        self.actions.append(PublishRecord(records.open_record(request), merge=request.is_partial))

    def _note(self, request: Request, placed: Placed, assignment: Assignment, now: float) -> None:
        request.decisions = [
            *request.decisions,
            records.decision(
                request,
                placed,
                self.config,
                leader_epoch=self.leader_epoch,
                number=assignment.number,
                queue_policy=self.queues.describe(),
                router=self.router.name,
                now=now,
            ),
        ]

    def settle(self, request: Request, assignment: Assignment, now: float) -> None:
        """Count a request as running where it was assigned, by us or by an earlier leader."""
        request.assignment, request.state = assignment, State.ASSIGNED
        prompt, prefill = context_tokens(request.submit), assignment.prefill
        new = max(1, prompt - (request.expected.cached if request.expected else 0))
        reservation = Reservation(
            request_id=request.request_id,
            mark=(assignment.leader_epoch, assignment.number),
            seqs=num_seqs(request.submit),
            tokens=self._lengths.kv_tokens(request.submit),
            expires_at=now + self.config.dispatch_timeout_s,
            prefill=new if prefill is None else 0,
            itl_s=(assignment.itl_ms or 0.0) / 1e3,
        )
        self._reserve(request, assignment.engine_id, assignment.incarnation, reservation, now)
        if prefill is not None:
            mark = (assignment.leader_epoch, prefill.number)
            there = replace(reservation, mark=mark, tokens=prompt, prefill=new, leaving=True, itl_s=0.0)
            self._reserve(request, prefill.engine_id, prefill.incarnation, there, now)

    def _reserve(
        self, request: Request, engine_id: str, incarnation: str, reservation: Reservation, now: float
    ) -> None:
        engine = self.fleet.get(engine_id)
        if engine is None or engine.incarnation != incarnation or engine.is_lost:
            return
        self.fleet.reserve(engine, reservation)
        self.fleet.kv.expect(engine.slot, request.submit.block_hashes, now)

    def repeat(self, request: Request, now: float) -> None:
        """Publish the assignment of a request once more, and reserve again what may have expired."""
        assignment = request.assignment
        if assignment is None:
            return
        engine = self.fleet.get(assignment.engine_id)
        if engine is not None and not engine.reservations.holds(request.request_id):
            self.settle(request, assignment, now)
        gateway_id, model = request.submit.gateway_id, request.submit.model
        self.actions.append(Assign(gateway_id, assignment, model, now - request.queued_at, is_repeat=True))

    # a request ends

    def withdraw(self, request: Request) -> None:
        """Take a request from wherever it is and free what it has reserved."""
        self.queues.take_out(request)
        if request.assignment is not None:
            self.fleet.release(request.assignment.engine_id, request.request_id)
            if request.assignment.prefill is not None:
                self.fleet.release(request.assignment.prefill.engine_id, request.request_id)
        request.state = State.CLOSED

    def end(self, event: RequestEvent, now: float) -> None:
        """A gateway has closed a request: free it, learn from it, complete its record."""
        request = self.book.close(event.request_id, Ended(event.epoch, now))
        if request is None:
            return
        self.withdraw(request)
        if event.phase == "finished" and event.completion_tokens is not None:
            choices = num_seqs(request.submit)
            self._lengths.observe(request.submit.model, event.completion_tokens // choices)
            self._compare(request, event)
        record = records.ended_record(request, event, self._alone_s(request, now))
        self.actions.append(PublishRecord(record, merge=request.is_partial))

    def _alone_s(self, request: Request, now: float) -> float:
        """Return what a prompt takes on its engine alone, or, if an earlier leader placed it, on the quickest."""
        if request.expected is not None:
            return request.expected.alone_s
        found = self.prospect(request.submit, now)
        return 0.0 if found is None else found.alone_s

    def _compare(self, request: Request, event: RequestEvent) -> None:
        """Learn how the prediction came out, unless the stream has moved since or an earlier leader placed it."""
        expected = request.expected
        if expected is None or len(request.decisions) != 1 or request.is_partial:
            return
        performance = self.fleet.performance
        transfer_s = (event.transfer_ms or 0.0) / 1e3
        if event.transfer_ms is not None:
            self.fleet.transfers.came(expected.handoff, expected.raw_transfer_s, transfer_s)
        if event.ttft_ms is not None:
            measured_s = request.arrival + event.ttft_ms / 1e3 - expected.at - transfer_s
            is_apart = expected.handoff > 0
            performance.first_token_came(expected.kind, expected.raw_first_s, measured_s, apart=is_apart)
        if event.itl_mean_ms is not None and (event.completion_tokens or 0) >= LEAST_TOKENS:
            itl_s = event.itl_mean_ms / 1e3
            performance.tokens_came(expected.per_kind, expected.raw_per_s, expected.raw_fleet_s, itl_s)

    def drop(self, request: Request) -> None:
        """Forget a request that its gateway does not have open, or whose gateway is gone; it may come again."""
        self.book.forget(request.request_id)
        self.withdraw(request)

    def give_up(self, request: Request, error: SageError, now: float) -> None:
        """Reject a request that has waited in vain, and tell its gateway."""
        self.book.close(request.request_id, Ended(request.epoch, now, error))
        self.withdraw(request)
        notice = Notice(kind="rejected", request_id=request.request_id, epoch=request.epoch, error=error.to_dict())
        self.actions.append(Notify(request.submit.gateway_id, notice))
        record = records.rejected_record(request.submit, request.decisions, error)
        self.actions.append(PublishRecord(record, merge=request.is_partial))

    def expire(self, now: float) -> None:
        """Give up the requests that have waited too long."""
        for limit, request in self._timers.due(now):
            if limit is Limit.DEADLINE:
                self.give_up(request, DeadlineExceeded("the deadline passed while the request was queued"), now)
            elif limit is Limit.QUEUE_TIME:
                self.give_up(request, self._waited_too_long(request, now), now)
            elif self._has_missed_engines(request, now):
                self.give_up(request, self._no_engine(request), now)

    def _waited_too_long(self, request: Request, now: float) -> SageError:
        waiting = self.queues.num_waiting(request.submit.model)
        return ResourceExhausted(
            f"no engine had room for {self.config.max_queue_time_s:g} s",
            retry_after_s=self.rate.retry_after_s(waiting, now),
        )

    def _has_missed_engines(self, request: Request, now: float) -> bool:
        since = request.parked_since
        return (
            request.state is State.PARKED
            and since is not None
            and now - since >= self.config.no_engine_timeout_s - 1e-6
        )

    def _no_engine(self, request: Request) -> SageError:
        reasons = [
            f"{e.engine_id}: {e.why_not_ready() or 'too small'}" for e in self.fleet.serving(request.submit.model)
        ]
        why = "; ".join(reasons[:4]) or "none is registered any more"
        return Unavailable(f"no engine of {request.submit.model!r} could take the request ({why})", retry_after_s=2.0)

    def clear(self) -> None:
        """Forget all requests, as leadership begins or ends."""
        for request in self.book:
            request.state = State.CLOSED
        self.book.clear()
        self.queues.clear()
        self._timers.clear()
        self.fleet.start_over()
