"""What is measured and traced about a request."""

from collections import Counter

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest

from sagellm_common.contracts.generate import GenerateRequest
from sagellm_common.contracts.slo import Slo
from sagellm_common.errors import DeadlineExceeded, SageError
from sagellm_gateway.core.request import Outcome
from sagellm_gateway.edge import record
from sagellm_gateway.metrics import GatewayMetrics


def outcome(error: SageError | None = None) -> Outcome:
    """A request of 4 tokens: TTFT 50 ms, gaps of 10, 20 and 30 ms."""
    phase = "failed" if error else "finished"
    return Outcome(phase, error, 1, "e1", ["stop"], 4, 2, 0.01, 0.05, 0.11, [0.01, 0.02, 0.03])


def shown(metrics: GatewayMetrics) -> dict[str, float]:
    """All samples as they are exposed."""
    lines = generate_latest(metrics.exposed).decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def test_metrics_have_the_names_of_vllms_contract() -> None:
    """TTFT, ITL (under both its names), end to end, queue, tokens and successes are there with their values."""
    repairs = Counter({"gap": 3})
    metrics = GatewayMetrics(repairs, Counter())
    metrics.ended("m", 7, Slo(ttft_ms=40.0), outcome())
    values = shown(metrics)
    label = '{model_name="m"}'
    assert values[f"vllm:time_to_first_token_seconds_count{label}"] == 1
    assert values[f"vllm:time_to_first_token_seconds_sum{label}"] == 0.05
    for name in ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"):
        assert values[f"{name}_count{label}"] == 3
        assert abs(values[f"{name}_sum{label}"] - 0.06) < 1e-9
        assert values[name + '_bucket{le="0.01",model_name="m"}'] == 1
        assert values[name + '_bucket{le="0.025",model_name="m"}'] == 2
        assert values[name + '_bucket{le="+Inf",model_name="m"}'] == 3
    assert values[f"vllm:e2e_request_latency_seconds_count{label}"] == 1
    assert values[f"vllm:request_queue_time_seconds_count{label}"] == 1
    assert values[f"vllm:prompt_tokens_total{label}"] == 7
    assert values[f"vllm:generation_tokens_total{label}"] == 4
    assert values['vllm:request_success_total{finished_reason="stop",model_name="m"}'] == 1
    assert values['sagellm_gateway_repairs_total{kind="gap"}'] == 3


def test_objectives_are_judged_by_the_request_or_the_default() -> None:
    """A stated TTFT of 40 ms is missed by 50 ms, the default ITL is met, an unstated deadline is not counted."""
    metrics = GatewayMetrics(Counter(), Counter())
    metrics.ended("m", 7, Slo(ttft_ms=40.0), outcome())
    values = shown(metrics)
    assert values['sagellm_slo_requests_total{met="false",objective="ttft"}'] == 1
    assert values['sagellm_slo_requests_total{met="true",objective="itl"}'] == 1
    assert not [name for name in values if 'objective="deadline"' in name]


def test_failures_are_counted_by_code() -> None:
    """A failed request is no success and has no end-to-end latency."""
    metrics = GatewayMetrics(Counter(), Counter())
    metrics.ended("m", 7, Slo(), outcome(DeadlineExceeded("over")))
    values = shown(metrics)
    assert values['sagellm_request_failures_total{code="deadline_exceeded",model_name="m"}'] == 1
    assert not [name for name in values if name.startswith("vllm:request_success_total")]


def test_the_span_continues_the_callers_trace_with_genai_attributes() -> None:
    """Operation, model, usage and finish reasons are on a span whose parent is the caller's."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer, record._tracer = record._tracer, provider.get_tracer("test")
    try:
        with provider.get_tracer("test").start_as_current_span("client") as client:
            request = GenerateRequest(prompt="x", client_request_id="mine")
            span = record.start_span(request, "r1", "m", 7)
        record.end_span(span, "m", outcome())
    finally:
        record._tracer = tracer
    done = next(span for span in exporter.get_finished_spans() if span.name == "gateway.request")
    attributes = dict(done.attributes or {})
    assert done.parent is not None
    assert done.parent.span_id == client.get_span_context().span_id
    assert attributes["gen_ai.operation.name"] == "text_completion"
    assert attributes["gen_ai.request.model"] == "m"
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (7, 4)
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["sagellm.client_request_id"] == "mine"
    provider.shutdown()
