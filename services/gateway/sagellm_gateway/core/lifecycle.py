"""The core's face: events in, actions out, in virtual or real time."""

from collections import Counter
from collections.abc import Iterable

from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.scheduling import Assignment, Notice, OpenRequest
from sagellm_common.errors import ResourceExhausted
from sagellm_gateway.core import events as ev
from sagellm_gateway.core.actions import Action
from sagellm_gateway.core.config import CoreConfig
from sagellm_gateway.core.intake import Intake
from sagellm_gateway.core.placement import Placement
from sagellm_gateway.core.repair import Repair
from sagellm_gateway.core.request import Phase, Request
from sagellm_gateway.core.state import CoreState


class GatewayCore:
    """Life of all open requests of one gateway.

    Each call returns what is to be done now. `now` is monotonic, in seconds, from the caller's clock. Tokens go to
    each request's sink while the call lasts; `Closed` is the last action about a request, and each accepted request
    gets exactly one. The bus counts as down until `BusChanged(True)`.
    """

    def __init__(self, config: CoreConfig | None = None) -> None:
        self._state = CoreState(config or CoreConfig())
        self._placement = Placement(self._state)
        self._intake = Intake(self._state, self._placement)
        self._repair = Repair(self._state, self._placement, self._intake)

    @property
    def counts(self) -> Counter[str]:
        """What was dropped or repaired, by kind."""
        return self._state.counts

    @property
    def requests(self) -> dict[str, Request]:
        """Open requests by id; to be read only."""
        return self._state.requests

    @property
    def leader(self) -> str | None:
        """The scheduler that requests go to."""
        return self._state.leader

    def handle(self, event: ev.Event, now: float) -> list[Action]:
        """Take an event that is not a token."""
        match event:
            case ev.Accepted():
                self._placement.accept(event.request, now)
            case ev.SubmitAnswered():
                self._placement.submit_answered(event.request_id, event.attempt, event.answer, now)
            case ev.Assigned():
                self._assigned(event.assignment, now)
            case ev.DispatchAnswered():
                self._placement.dispatch_answered(event.request_id, event.attempt, event.error, now)
            case ev.Reported():
                self._repair.reported(event.engine_id, event.incarnation, event.progress, now)
            case ev.Resent():
                self._repair.resent(event.request_id, event.epoch, event.choice, event.answer, now)
            case _:
                self._handle_rare(event, now)
        return self._state.drain()

    def _handle_rare(self, event: ev.Event, now: float) -> None:
        match event:
            case ev.LeaderChanged():
                self._leader_changed(event.scheduler_id, now)
            case ev.BusChanged():
                self._bus_changed(event.up, now)
            case ev.Noticed():
                self._noticed(event.notice, now)
            case ev.PrefillAnswered():
                self._placement.prefill_answered(event.request_id, event.epoch, event.error)
            case ev.Drained():
                self._intake.drained(event.request_id, now)
            case ev.Stopped():
                self._stopped(event.request_id, event.choice, now)
            case ev.CancelAsked():
                request = self._state.requests.get(event.request_id)
                if request is not None:
                    self._state.give_up(request, event.error, now)

    def take(self, items: Iterable[TokenItem], now: float, source: tuple[str, str] | None = None) -> list[Action]:
        """Take the items of a token frame of the engine (id, incarnation) `source`: the hot path."""
        if source is not None:
            self._repair.heard(source, now)
        take = self._intake.take
        for item in items:
            take(item, now)
        return self._state.drain()

    def tick(self, now: float) -> list[Action]:
        """Do what has become due; call it every 50 ms or so."""
        self._repair.check_engines(now)
        for request in self._state.timers.expired(now):
            self._wake(request, now)
        return self._state.drain()

    def open_requests(self, now: float) -> list[OpenRequest]:
        """Describe every open request, for a scheduler that has just begun to lead."""
        return [OpenRequest(submit=r.submission(now), assignment=r.assignment) for r in self._state.requests.values()]

    def _wake(self, request: Request, now: float) -> None:
        if now >= request.deadline_at:
            self._placement.overdue(request, now)
        elif now >= request.blocked_since + self._state.config.slow_client_timeout_s:
            slow = ResourceExhausted("the client does not read its tokens fast enough; the request was ended")
            self._state.give_up(request, slow, now)
        elif request.is_unassigned:
            self._placement.waited(request, now)
        elif request.phase is Phase.STREAMING:
            self._repair.watch(request, now)
        else:
            self._state.schedule(request, now)

    def _assigned(self, assignment: Assignment, now: float) -> None:
        self._repair.assigned(assignment.engine_id, assignment.incarnation, now)
        if assignment.prefill is not None:
            self._repair.assigned(assignment.prefill.engine_id, assignment.prefill.incarnation, now)
        self._placement.assigned(assignment, now)

    def _leader_changed(self, scheduler_id: str | None, now: float) -> None:
        self._state.leader = scheduler_id
        if scheduler_id is not None:
            self._placement.submit_unassigned(now)

    def _bus_changed(self, up: bool, now: float) -> None:
        self._state.bus_up_since = now if up else None
        if not up:
            return
        self._placement.submit_unassigned(now)
        for request in list(self._state.requests.values()):
            if request.phase is Phase.DISPATCHED:
                self._placement.dispatch_again(request, now)

    def _noticed(self, notice: Notice, now: float) -> None:
        if notice.kind == "rejected":
            self._placement.rejected(notice, now)
        elif notice.engine_id is not None:
            self._repair.lost(notice.engine_id, notice.incarnation, "the scheduler says so", now)

    def _stopped(self, request_id: str, choice: int, now: float) -> None:
        request = self._state.requests.get(request_id)
        if request is None or request.choices[choice].finish is not None:
            return
        request.choices[choice].finish = "stop"
        if request.is_complete:
            self._state.stop_engine(request, "a stop string came up")
            self._state.finish(request, now)
