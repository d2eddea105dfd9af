"""Spans of the scheduler: where they hang in a request's trace, and how long they last."""

import time

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sagellm_common.contracts.scheduling import Assignment
from sagellm_scheduler.core.actions import Assign
from sagellm_scheduler.service import spans
from sagellm_scheduler.service.spans import Spans

MS = 1_000_000


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the finished spans of the test go."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "_tracer", provider.get_tracer("test"))
    return exporter


def assign(*, queued_s: float = 0.2, is_repeat: bool = False) -> Assign:
    made = Assignment(request_id="r1", epoch=0, engine_id="e1", incarnation="i1", leader_epoch=(1, 1), number=1)
    return Assign("g1", made, "m", queued_s, is_repeat)


def submitted(known: Spans) -> trace.SpanContext:
    """Submit `r1` inside the span of a gateway; return that span's context."""
    parent = trace.SpanContext(trace_id=7, span_id=9, is_remote=True, trace_flags=trace.TraceFlags(1))
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(parent)))
    try:
        known.submitted("r1")
    finally:
        context.detach(token)
    return parent


def test_queue_and_decide_belong_to_the_trace_of_the_request(exporter: InMemorySpanExporter) -> None:
    """`scheduler.queue` is a child of the gateway's span and `scheduler.decide` lies within it."""
    known = Spans()
    parent = submitted(known)
    ended = time.time_ns() + 200 * MS
    inside = known.assigned(assign(), ended - MS, ended)
    decide, queue = exporter.get_finished_spans()
    assert (decide.name, queue.name) == ("scheduler.decide", "scheduler.queue")
    assert queue.parent is not None
    assert queue.parent.span_id == parent.span_id
    assert decide.parent is not None
    assert decide.parent.span_id == queue.context.span_id
    assert {decide.context.trace_id, queue.context.trace_id} == {parent.trace_id}
    assert queue.start_time is not None
    assert decide.start_time is not None
    assert queue.start_time <= decide.start_time <= (queue.end_time or 0)
    assert trace.get_current_span(inside).get_span_context().span_id == queue.context.span_id


def test_a_repeated_assignment_makes_no_second_span(exporter: InMemorySpanExporter) -> None:
    """The same assignment published again stays in the trace and adds nothing to it."""
    known = Spans()
    submitted(known)
    assert known.assigned(assign(is_repeat=True), 1, 2) is not None
    assert exporter.get_finished_spans() == ()


def test_a_request_without_trace_or_after_its_end_makes_no_span(exporter: InMemorySpanExporter) -> None:
    """Nothing is remembered for requests outside a trace, and nothing after the end."""
    known = Spans()
    known.submitted("r1")
    assert known.assigned(assign(), 1, 2) is None
    submitted(known)
    known.ended("r1")
    assert known.assigned(assign(), 1, 2) is None
    assert exporter.get_finished_spans() == ()
