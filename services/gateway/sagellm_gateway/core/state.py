"""What the parts of the core share: open requests, the leader, the bus, what is to be done, what is counted."""

from collections import Counter

from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.errors import SageError
from sagellm_gateway.core.actions import Action, Closed, SendAck, SendCancel
from sagellm_gateway.core.config import CoreConfig
from sagellm_gateway.core.request import FOREVER, Phase, Request, outcome
from sagellm_gateway.core.timers import MIN_WAIT_S, Timers


class CoreState:
    """Shared state of the core's parts; only they change it.

    `counts` counts what was dropped or repaired: `old_epoch`, `unknown`, `duplicate`, `gap`, `blocked`, `resend`,
    `old_leader`, `epoch`, `engine_lost`.
    """

    def __init__(self, config: CoreConfig) -> None:
        self.config = config
        self.requests: dict[str, Request] = {}
        self.leader: str | None = None
        self.leader_epoch: LeaderEpoch = (0, 0)
        self.bus_up_since: float | None = None
        self.counts: Counter[str] = Counter()
        self.timers = Timers()
        self._out: list[Action] = []

    def emit(self, action: Action) -> None:
        """Have `action` done after the current event."""
        self._out.append(action)

    def drain(self) -> list[Action]:
        """Return what is to be done and forget it."""
        out, self._out = self._out, []
        return out

    def bus_up_s(self, now: float) -> float:
        """Seconds since the bus is up; 0 while it is down."""
        return 0.0 if self.bus_up_since is None else now - self.bus_up_since

    def find(self, request_id: str, epoch: int) -> Request | None:
        """Return the open request if `epoch` is its current one."""
        request = self.requests.get(request_id)
        return request if request is not None and request.epoch == epoch else None

    def schedule(self, request: Request, now: float) -> None:
        """Set the request's timer to the earliest moment at which something must be done about it."""
        due = min(request.deadline_at, request.blocked_since + self.config.slow_client_timeout_s)
        if request.phase is not Phase.DISPATCHED:
            due = min(due, request.act_at)
        if request.phase is Phase.WAITING:
            due = min(due, request.unplaced_since + self.config.place_timeout_s)
        if request.phase is Phase.STREAMING:
            due = min(due, *(choice.resend_at for choice in request.choices))
        self.timers.set(request, due if due == FOREVER else max(due, now + MIN_WAIT_S))

    def finish(self, request: Request, now: float) -> None:
        """Close a request all of whose choices have ended, and let the engine forget it."""
        if request.assignment is not None:
            self.emit(SendAck(request.assignment.engine_id, request.request_id, request.epoch))
        self._close(request, "finished", None, now)

    def give_up(self, request: Request, error: SageError, now: float) -> None:
        """Close a request with an error; an engine that may have it is told to stop."""
        self.stop_engine(request, error.message)
        self._close(request, "cancelled" if error.code == "cancelled" else "failed", error, now)

    def stop_engine(self, request: Request, reason: str) -> None:
        """Cancel what the engine of the current epoch does for a request."""
        if request.assignment is not None:
            self.emit(SendCancel(request.assignment.engine_id, request.request_id, None, reason))
        self.stop_prefill(request, reason)

    def stop_prefill(self, request: Request, reason: str) -> None:
        """Cancel what another engine prefills for the current epoch; its first token says that this is over."""
        assignment = request.assignment
        if assignment is not None and assignment.prefill is not None and not request.has_begun:
            self.emit(SendCancel(assignment.prefill.engine_id, request.request_id, request.epoch, reason))

    def _close(self, request: Request, phase: str, error: SageError | None, now: float) -> None:
        request.phase = Phase.CLOSED
        del self.requests[request.request_id]
        self.emit(Closed(request, outcome(request, phase, error, now)))
