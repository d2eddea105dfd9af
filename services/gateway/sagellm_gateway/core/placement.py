"""From an accepted request to an engine that has it: submission, assignment, dispatch, and the next epoch."""

from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.handoff import LeaseAbort
from sagellm_common.contracts.scheduling import Assignment, Notice, SubmitReply
from sagellm_common.errors import (
    DeadlineExceeded,
    Internal,
    SageError,
    Unavailable,
    error_from_dict,
)
from sagellm_gateway.core.actions import (
    Migrated,
    Placed,
    SendAbort,
    SendCancel,
    SendDispatch,
    SendPrefill,
    SendSubmit,
)
from sagellm_gateway.core.request import FOREVER, Phase, Request, prefill_body
from sagellm_gateway.core.state import CoreState

# Errors that another try, elsewhere or later, may overcome; every other one fails the request.
TRANSIENT = frozenset({"unavailable", "deadline_exceeded"})
REFUSALS = TRANSIENT | {"resource_exhausted", "not_found", "internal", "cancelled", "kv_transfer_failed"}


class Placement:
    """Finds an engine for each open request, as often as needed."""

    def __init__(self, state: CoreState) -> None:
        self._state = state

    # submission

    def accept(self, request: Request, now: float) -> None:
        """Open a request and submit its first epoch."""
        self._state.requests[request.request_id] = request
        self._wait(request, now, 0.0)

    def submit(self, request: Request, now: float) -> None:
        """Describe the current epoch to the leader; without leader or bus, wait for them."""
        state = self._state
        if state.leader is None or state.bus_up_since is None:
            self._wait(request, now, state.config.backoff(request.submissions + 1))
            return
        request.attempt += 1
        request.phase = max(request.phase, Phase.SUBMITTED)
        request.act_at = now + state.config.silence_s
        state.emit(SendSubmit(state.leader, request.attempt, request.submission(now)))
        state.schedule(request, now)

    def submit_unassigned(self, now: float) -> None:
        """Submit everything that has no engine yet; for a new leader, and after the bus was away."""
        for request in list(self._state.requests.values()):
            if request.is_unassigned:
                self.submit(request, now)

    def _wait(self, request: Request, now: float, delay_s: float) -> None:
        request.phase = Phase.WAITING
        request.unplaced_since = min(request.unplaced_since, now)
        if delay_s == 0.0 and self._state.leader is not None and self._state.bus_up_since is not None:
            self.submit(request, now)
            return
        request.act_at = now + delay_s
        self._state.schedule(request, now)

    def submit_answered(self, request_id: str, attempt: int, answer: SubmitReply | SageError, now: float) -> None:
        """Note that the leader has queued an epoch, has rejected it, or did not answer."""
        request = self._state.requests.get(request_id)
        if request is None or request.attempt != attempt or not request.is_unassigned:
            return
        if isinstance(answer, SageError):
            self._not_submitted(request, answer, now)
        elif answer.status == "rejected":
            self._rejected(request, _error_of(answer.error), now, is_answer=True)
        else:
            request.phase = Phase.QUEUED
            request.submissions, request.unplaced_since = 0, FOREVER
            request.queued_since = min(request.queued_since, now)
            request.act_at = now + self._state.config.patience(now - request.queued_since)
            self._state.emit(Placed(request))
            self._state.schedule(request, now)

    def _not_submitted(self, request: Request, error: SageError, now: float) -> None:
        if error.code not in TRANSIENT:
            self._state.give_up(request, error, now)
            return
        request.submissions += 1
        self._wait(request, now, self._state.config.backoff(request.submissions))

    def rejected(self, notice: Notice, now: float) -> None:
        """Take a late refusal of an epoch that has no engine yet."""
        request = self._state.find(notice.request_id or "", -1 if notice.epoch is None else notice.epoch)
        if request is not None and request.is_unassigned:
            self._rejected(request, _error_of(notice.error), now)

    def _rejected(self, request: Request, error: SageError, now: float, *, is_answer: bool = False) -> None:
        """End a refused request, unless waiting may help: engines may come back for a stream that has begun, and a
        scheduler that answers a submit with Unavailable has just lost the lead, or has not got it yet.
        """
        may_wait = request.epoch > 0 and error.code in TRANSIENT
        may_wait = may_wait or (is_answer and isinstance(error, Unavailable))
        if may_wait and not self._overdue(request, now):
            self._not_submitted(request, error, now)
        else:
            self._state.give_up(request, error, now)

    def waited(self, request: Request, now: float) -> None:
        """The timer of an unassigned request has come up: submit again, or give up."""
        if request.phase is Phase.WAITING and self._overdue(request, now):
            missing = "no scheduler answers" if self._state.bus_up_since is not None else "the bus cannot be reached"
            self._state.give_up(request, Unavailable(f"{missing}; try again later", retry_after_s=1.0), now)
        elif now >= request.act_at and self._state.bus_up_since is not None:
            self.submit(request, now)
        else:
            request.act_at = max(request.act_at, now + self._state.config.backoff_s)
            self._state.schedule(request, now)

    def _overdue(self, request: Request, now: float) -> bool:
        return now >= request.unplaced_since + self._state.config.place_timeout_s

    # assignment and dispatch

    def assigned(self, assignment: Assignment, now: float) -> None:
        """Take one assignment per epoch, from the newest leader only, and send the body."""
        state = self._state
        if assignment.leader_epoch < state.leader_epoch:
            state.counts["old_leader"] += 1
            return
        state.leader_epoch = assignment.leader_epoch
        request = state.find(assignment.request_id, assignment.epoch)
        if request is None:
            state.counts["old_epoch"] += 1
            return
        if request.assignment is not None:
            state.counts["duplicate"] += 1
            return
        request.assignment = assignment
        request.submissions, request.unplaced_since = 0, FOREVER
        if request.assigned_at is None:
            request.assigned_at = now
        state.emit(Placed(request))
        self._dispatch(request, assignment, now)

    def _dispatch(self, request: Request, assignment: Assignment, now: float) -> None:
        request.phase, request.dispatched_at, request.heard_at = Phase.DISPATCHED, now, now
        request.attempt += 1
        timeout_s = assignment.dispatch_timeout_ms / 1000
        body = request.dispatch(assignment, now)
        self._state.emit(SendDispatch(assignment.engine_id, request.attempt, timeout_s, body))
        prefill = assignment.prefill
        if prefill is not None:
            self._state.emit(SendPrefill(prefill.engine_id, timeout_s, prefill_body(body, assignment, prefill)))
        self._state.schedule(request, now)

    def dispatch_answered(self, request_id: str, attempt: int, error: SageError | None, now: float) -> None:
        """Note that the engine has the body, or go elsewhere."""
        request = self._state.requests.get(request_id)
        if request is None or request.attempt != attempt or request.phase is not Phase.DISPATCHED:
            return
        if error is None:
            self.streaming(request, now)
        elif error.code not in REFUSALS:
            self._state.give_up(request, error, now)
        elif self._bus_failed_since(request.dispatched_at):
            self.dispatch_again(request, now)
        else:
            self._refused(request, error, now)

    def prefill_answered(self, request_id: str, epoch: int, error: SageError | None) -> None:
        """Note that the prefill engine has the body; if not, the other one prefills itself."""
        request = self._state.find(request_id, epoch)
        if error is not None and request is not None:
            self.abandon_prefill(request, f"the prefill engine refused it: {error.message}")

    def abandon_prefill(self, request: Request, reason: str) -> None:
        """Have the engine that decodes a request prefill it too, unless it has the prompt already."""
        if request.assignment is not None:
            abort = LeaseAbort(request_id=request.request_id, epoch=request.epoch, reason=reason)
            self._state.emit(SendAbort(request.assignment.engine_id, abort))

    def _refused(self, request: Request, error: SageError, now: float) -> None:
        engine_id = request.engine_id
        if engine_id is not None and error.code in TRANSIENT:  # it may have the body all the same
            self._state.emit(SendCancel(engine_id, request.request_id, request.epoch, "not acknowledged in time"))
        self.next_epoch(request, error, now)

    def _bus_failed_since(self, moment: float) -> bool:
        return self._state.bus_up_since is None or self._state.bus_up_since > moment

    def dispatch_again(self, request: Request, now: float) -> None:
        """Send the body of the same epoch once more; the engine takes it once."""
        if self._state.bus_up_since is not None and request.assignment is not None:
            self._dispatch(request, request.assignment, now)

    def streaming(self, request: Request, now: float) -> None:
        """The engine has the request: it answered so, or its first frame is here."""
        request.phase, request.heard_at = Phase.STREAMING, now
        request.act_at = now + self._state.config.probe_s
        self._state.schedule(request, now)

    # the next epoch

    def next_epoch(self, request: Request, error: SageError, now: float, *, at_once: bool = False) -> None:
        """Give up the current epoch because of `error` and submit the next one with what is delivered."""
        failed = request.engine_id
        self._state.stop_prefill(request, "the request is moved")
        self._note_progress(request, failed)
        if request.idle_epochs >= self._state.config.max_idle_epochs:
            tries = f"given up after {request.idle_epochs} attempts without a token; the last: {error.message}"
            self._state.give_up(request, type(error)(tries, retry_after_s=error.retry_after_s), now)
            return
        self._reset_epoch(request)
        if self._end_what_is_complete(request):
            self._state.finish(request, now)
            return
        self._state.counts["epoch"] += 1
        self._state.emit(Migrated(request, error.message))
        delay_s = 0.0 if at_once else self._state.config.backoff(request.idle_epochs)
        self._wait(request, now, delay_s)

    def _note_progress(self, request: Request, failed: str | None) -> None:
        if request.num_tokens > request.tokens_at_epoch:
            request.tokens_at_epoch = request.num_tokens
            request.idle_epochs, request.failed_engines = 0, ()
        request.idle_epochs += 1
        if failed is not None and failed not in request.failed_engines:
            request.failed_engines = (*request.failed_engines, failed)

    def _reset_epoch(self, request: Request) -> None:
        request.epoch += 1
        request.assignment, request.submissions = None, 0
        request.unplaced_since = request.queued_since = FOREVER
        request.has_begun = False
        request.attempt += 1  # answers to what the last epoch has sent are void
        for choice in request.choices:
            choice.ahead, choice.behind_at = 0, -1
            choice.resending, choice.resend_attempts, choice.resend_at = False, 0, FOREVER

    def _end_what_is_complete(self, request: Request) -> bool:
        """End choices whose last token ends them, though the engine's word for it was lost; True if all have ended."""
        limit = request.sampling.max_tokens
        for index, choice in enumerate(request.choices):
            if choice.finish is None and choice.tokens:
                num = len(choice.tokens)
                ended = choice.tokens[-1] in request.end_token_ids and num >= request.sampling.min_tokens
                choice.finish = "stop" if ended else "length" if limit is not None and num >= limit else None
                if choice.finish is not None:
                    end = TokenItem(request.request_id, request.epoch, index, num, [], finish=choice.finish)
                    request.sink.put(end, 0)
        return request.is_complete

    def overdue(self, request: Request, now: float) -> None:
        """The request's own deadline is over."""
        self._state.give_up(request, DeadlineExceeded("the request's deadline is over"), now)


def _error_of(body: dict[str, object] | None) -> SageError:
    return error_from_dict(body) if body else Internal("the scheduler rejected the request without saying why")
