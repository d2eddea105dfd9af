"""Spans of a request in the engine."""

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sagellm_common.errors import DeadlineExceeded
from sagellm_engine.core.types import FinishReason, TokenOutput
from sagellm_engine.service import spans
from sagellm_engine.service.entries import ChoiceTokens, Entry
from sagellm_engine.service.spans import RequestTrace

KEY = ("r1", 2)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Collects the spans that are made in a test."""
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    monkeypatch.setattr(spans, "tracer", provider.get_tracer("test"))
    yield memory
    provider.shutdown()


def _entry() -> Entry:
    return Entry(KEY, "gw", {0: ChoiceTokens(0)}, num_prompt_tokens=12, num_open=1)


def test_three_spans_follow_each_other_under_the_dispatch(exporter: InMemorySpanExporter) -> None:
    """Queue, prefill and decode are children of the sender's span, touch each other, and carry the GenAI attributes."""
    provider = TracerProvider()
    with provider.get_tracer("gateway").start_as_current_span("dispatch") as parent:
        request = RequestTrace("m")
    entry = _entry()
    request.admitted(0.0)
    entry.choices[0].add(KEY, TokenOutput(KEY, 0, 0, (5,)))
    request.started(entry)
    entry.choices[0].add(KEY, TokenOutput(KEY, 0, 1, (6,), None, FinishReason.STOP))
    request.ended(entry)
    provider.shutdown()
    made = exporter.get_finished_spans()
    assert [span.name for span in made] == ["engine.queue", "engine.prefill", "engine.decode"]
    for span in made:
        assert span.parent is not None
        assert span.parent.span_id == parent.get_span_context().span_id
        assert span.attributes is not None
        assert span.attributes["gen_ai.request.model"] == "m"
        assert span.attributes["gen_ai.usage.input_tokens"] == 12
        assert span.attributes["sagellm.request_id"] == "r1"
    assert [left.end_time for left in made[:2]] == [right.start_time for right in made[1:]]
    assert made[2].attributes is not None
    assert made[2].attributes["gen_ai.usage.output_tokens"] == 2


@pytest.mark.parametrize(("admitted", "name"), [(False, "engine.queue"), (True, "engine.prefill")])
def test_a_failure_shows_on_the_phase_that_it_ended(exporter: InMemorySpanExporter, admitted: bool, name: str) -> None:
    """A request that fails before its first token leaves one span with the error."""
    request, entry = RequestTrace("m"), _entry()
    if admitted:
        request.admitted(0.0)
    error = DeadlineExceeded("too late")
    entry.choices[0].add(KEY, TokenOutput(KEY, 0, 0, (), None, FinishReason.ERROR, error))
    request.ended(entry)
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.status.status_code) == (name, trace.StatusCode.ERROR)
    assert span.status.description == "too late"
