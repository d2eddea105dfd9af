"""Trace context in NATS headers: written on sending, restored around handlers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, propagate, trace


def inject(headers: dict[str, str]) -> None:
    """Write the current trace context into `headers`, if there is one; a context that the sender named stays."""
    if "traceparent" not in headers and trace.get_current_span().get_span_context().is_valid:
        propagate.inject(headers)


@contextmanager
def continued(headers: Mapping[str, str]) -> Iterator[None]:
    """Run the block inside the sender's trace context, if the headers carry one."""
    if "traceparent" not in headers:
        yield
        return
    token = context.attach(propagate.extract(headers))
    try:
        yield
    finally:
        context.detach(token)
