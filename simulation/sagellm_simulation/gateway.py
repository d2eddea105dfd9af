"""The real gateway core in virtual time: clients' requests in, outcomes out."""

from collections.abc import Callable

from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.reports import Progress
from sagellm_common.contracts.sampling import SamplingOptions
from sagellm_common.contracts.scheduling import Assignment, Notice, OpenRequest, Submit, SubmitReply
from sagellm_common.errors import DeadlineExceeded, Internal, SageError
from sagellm_gateway.core import actions as act
from sagellm_gateway.core import events as ev
from sagellm_gateway.core.lifecycle import GatewayCore
from sagellm_gateway.core.request import FOREVER, Outcome, Request
from sagellm_simulation.kernel import Kernel
from sagellm_simulation.trace import TraceRequest

SUBMIT_TIMEOUT_S = RESEND_TIMEOUT_S = 2.0


class CheckedSink:
    """Takes the tokens of one request. The token at an index is the index: anything else is a fault of the system."""

    is_full = False

    def __init__(self) -> None:
        self.num_tokens = 0

    def put(self, item: TokenItem, skip: int) -> None:
        new = item.token_ids[skip:]
        if new and (new[0] != self.num_tokens or new[-1] != self.num_tokens + len(new) - 1):
            raise Internal(f"{item.request_id} got tokens {new[0]} to {new[-1]} after {self.num_tokens}")
        self.num_tokens += len(new)


class Wires:
    """What a gateway sends; set by the world. Answers come back through the callables given, or never."""

    submit: Callable[[Submit, Callable[[SubmitReply], None]], None]
    dispatch: Callable[[act.SendDispatch, Callable[[], None]], None]
    prefill: Callable[[act.SendPrefill, Callable[[], None]], None]
    abort: Callable[[act.SendAbort], None]
    cancel: Callable[[act.SendCancel], None]
    ack: Callable[[act.SendAck], None]
    resend: Callable[[act.SendResend, Callable[[TokenItem | None], None]], None]


class SimGateway:
    """One gateway; `closed` is called with each request's end."""

    def __init__(
        self,
        kernel: Kernel,
        gateway_id: str,
        model: str,
        wires: Wires,
        closed: Callable[[Request, Outcome], None],
        *,
        tick_s: float,
    ) -> None:
        self._kernel, self.gateway_id, self._model = kernel, gateway_id, model
        self._wires, self._closed = wires, closed
        self.core = GatewayCore()
        self._perform(self.core.handle(ev.BusChanged(True), kernel.now))
        kernel.every(tick_s, lambda: self._perform(self.core.tick(kernel.now)))

    def accept(self, asked: TraceRequest) -> None:
        """A client's request has come."""
        submit = Submit(
            request_id=asked.request_id,
            gateway_id=self.gateway_id,
            model=self._model,
            prompt_tokens=asked.prompt_tokens,
            max_tokens=asked.output_tokens,
            block_hashes=asked.blocks,
            prefix_hash=asked.blocks[0] + 1 if asked.blocks else 0,
            slo=asked.slo,
            priority=asked.priority,
            user=asked.user,
            cost_budget=asked.cost_budget,
        )
        now = self._kernel.now
        deadline_at = FOREVER if asked.slo.deadline_ms is None else now + asked.slo.deadline_ms / 1e3
        sampling = SamplingOptions(max_tokens=asked.output_tokens, seed=0)
        self._handle(ev.Accepted(Request(submit, [], sampling, CheckedSink(), now, deadline_at)))

    # what comes over the bus

    def leader_changed(self, scheduler_id: str | None) -> None:
        self._handle(ev.LeaderChanged(scheduler_id))

    def assigned(self, assignment: Assignment) -> None:
        self._handle(ev.Assigned(assignment))

    def noticed(self, notice: Notice) -> None:
        self._handle(ev.Noticed(notice))

    def frame(self, engine_id: str, incarnation: str, items: list[TokenItem]) -> None:
        self._perform(self.core.take(items, self._kernel.now, (engine_id, incarnation)))

    def reported(self, engine_id: str, incarnation: str, progress: list[Progress]) -> None:
        self._handle(ev.Reported(engine_id, incarnation, progress))

    def open_requests(self) -> list[OpenRequest]:
        return self.core.open_requests(self._kernel.now)

    def _handle(self, event: ev.Event) -> None:
        self._perform(self.core.handle(event, self._kernel.now))

    # what the core wants done

    def _perform(self, actions: list[act.Action]) -> None:
        for action in actions:
            match action:
                case act.SendSubmit():
                    self._submit(action)
                case act.SendDispatch():
                    self._dispatch(action)
                case act.SendPrefill():
                    self._prefill(action)
                case act.SendAbort():
                    self._wires.abort(action)
                case act.SendResend():
                    self._resend(action)
                case act.SendCancel():
                    self._wires.cancel(action)
                case act.SendAck():
                    self._wires.ack(action)
                case act.Closed():
                    self._closed(action.request, action.outcome)

    def _submit(self, action: act.SendSubmit) -> None:
        request_id, attempt = action.submit.request_id, action.attempt
        late = DeadlineExceeded("the scheduler did not answer")
        self._wires.submit(action.submit, lambda reply: self._handle(ev.SubmitAnswered(request_id, attempt, reply)))
        self._later(SUBMIT_TIMEOUT_S, ev.SubmitAnswered(request_id, attempt, late))

    def _dispatch(self, action: act.SendDispatch) -> None:
        request_id, attempt = action.dispatch.request_id, action.attempt
        late = DeadlineExceeded("the engine did not answer")
        self._wires.dispatch(action, lambda: self._handle(ev.DispatchAnswered(request_id, attempt, None)))
        self._later(action.timeout_s, ev.DispatchAnswered(request_id, attempt, late))

    def _prefill(self, action: act.SendPrefill) -> None:
        body, answered = action.dispatch, False

        def answer(error: SageError | None) -> None:
            nonlocal answered
            if not answered:
                answered = True
                self._handle(ev.PrefillAnswered(body.request_id, body.epoch, error))

        self._wires.prefill(action, lambda: answer(None))
        self._kernel.after(action.timeout_s, answer, DeadlineExceeded("the prefill engine did not answer"))

    def _resend(self, action: act.SendResend) -> None:
        asked = action.resend
        answered = False

        def answer(item: TokenItem | None) -> None:
            nonlocal answered
            if not answered:
                answered = True
                result = item or DeadlineExceeded("the engine did not answer")
                self._handle(ev.Resent(asked.request_id, asked.epoch, asked.choice, result))

        self._wires.resend(action, answer)
        self._kernel.after(RESEND_TIMEOUT_S, answer, None)

    def _later(self, seconds: float, event: ev.SubmitAnswered | ev.DispatchAnswered) -> None:
        """Answer with an error in so many seconds, should no answer have come; the core takes one of an attempt."""
        self._kernel.after(seconds, self._late, event)

    def _late(self, event: ev.SubmitAnswered | ev.DispatchAnswered) -> None:
        request = self.core.requests.get(event.request_id)
        if request is not None and request.attempt == event.attempt:
            self._handle(event)
