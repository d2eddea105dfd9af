"""Spans of a request in the engine: queue, prefill, transfer, decode, as children of the gateway's dispatch."""

import time
from dataclasses import dataclass, field

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Status, StatusCode
from opentelemetry.util.types import AttributeValue

from sagellm_engine.service.entries import Entry

tracer = trace.get_tracer("sagellm.engine")


@dataclass(slots=True)
class RequestTrace:
    """When a request reached which phase, in ns since the epoch, and the sender's trace context."""

    model: str
    parent: Context = field(default_factory=context.get_current)
    received_ns: int = field(default_factory=time.time_ns)
    admitted_ns: int | None = None
    first_token_ns: int | None = None

    def admitted(self, step_s: float) -> None:
        """A step that took `step_s` has begun to compute it; admissions after a preemption change nothing."""
        if self.admitted_ns is None:
            self.admitted_ns = time.time_ns() - int(step_s * 1e9)

    def started(self, entry: Entry) -> None:
        """The first token is there: queue and prefill are over."""
        self.first_token_ns = time.time_ns()
        if self.admitted_ns is not None:
            self._span("engine.queue", entry, self.received_ns, self.admitted_ns)
            self._span("engine.prefill", entry, self.admitted_ns, self.first_token_ns)

    def transferred(self, entry: Entry, seconds: float) -> None:
        """What another engine has prefilled is here; it took so long from its last page on."""
        now = time.time_ns()
        self._span("engine.transfer", entry, now - int(seconds * 1e9), now)

    def ended(self, entry: Entry) -> None:
        """The last choice has ended; a fault is shown on the span of the phase that it ended."""
        now = time.time_ns()
        error = next((choice.error for choice in entry.choices.values() if choice.error), None)
        failure = None if error is None else str(error["message"])
        if entry.num_tokens and self.first_token_ns is not None:
            self._span("engine.decode", entry, self.first_token_ns, now, failure)
        elif failure is not None:
            phase = "engine.queue" if self.admitted_ns is None else "engine.prefill"
            self._span(phase, entry, self.admitted_ns or self.received_ns, now, failure)

    def _span(self, name: str, entry: Entry, start_ns: int, end_ns: int, failure: str | None = None) -> None:
        attributes: dict[str, AttributeValue] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": self.model,
            "gen_ai.usage.input_tokens": entry.num_prompt_tokens,
            "gen_ai.usage.output_tokens": entry.num_tokens,
            "sagellm.request_id": entry.key[0],
            "sagellm.epoch": entry.key[1],
        }
        span = tracer.start_span(name, self.parent, start_time=start_ns, attributes=attributes)
        if failure is not None:
            span.set_status(Status(StatusCode.ERROR, failure))
        span.end(end_ns)
