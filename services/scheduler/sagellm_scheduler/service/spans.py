"""Spans of a request in the scheduler: `scheduler.queue` from submit to assignment, `scheduler.decide` within it."""

import time
from collections import OrderedDict
from dataclasses import dataclass

from opentelemetry import context, trace
from opentelemetry.context import Context

from sagellm_scheduler.core.actions import Assign

KEEP = 50_000
_tracer = trace.get_tracer("sagellm.scheduler")


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a request came from in its trace, and when, in ns since the epoch."""

    context: Context
    submitted_ns: int


class Spans:
    """Remembers the trace context of each submit while it is open; without traces it does nothing."""

    def __init__(self) -> None:
        self._origins: OrderedDict[str, _Origin] = OrderedDict()

    def submitted(self, request_id: str) -> None:
        """Keep the current context for a request, if it is part of a trace."""
        if not trace.get_current_span().get_span_context().is_valid or request_id in self._origins:
            return
        self._origins[request_id] = _Origin(context.get_current(), time.time_ns())
        if len(self._origins) > KEEP:
            self._origins.popitem(last=False)

    def assigned(self, action: Assign, began_ns: int, ended_ns: int) -> Context | None:
        """Write the spans of an assignment; returns the context in which it is published, or None."""
        origin = self._origins.get(action.assignment.request_id)
        if origin is None:
            return None
        if action.is_repeat:
            return origin.context
        submitted_ns = max(origin.submitted_ns, ended_ns - int(action.queued_s * 1e9))
        queue = _tracer.start_span("scheduler.queue", origin.context, start_time=min(submitted_ns, began_ns))
        queue.set_attributes(
            {
                "sagellm.request_id": action.assignment.request_id,
                "sagellm.engine_id": action.assignment.engine_id,
                "sagellm.epoch": action.assignment.epoch,
                "gen_ai.request.model": action.model,
            }
        )
        inside = trace.set_span_in_context(queue, origin.context)
        _tracer.start_span("scheduler.decide", inside, start_time=began_ns).end(ended_ns)
        queue.end(ended_ns)
        return inside

    def ended(self, request_id: str) -> None:
        """Forget a request."""
        self._origins.pop(request_id, None)
