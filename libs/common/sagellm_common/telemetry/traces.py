"""Traces: spans go to an OTLP endpoint when one is set; without one they cost nothing."""

from typing import TYPE_CHECKING

from opentelemetry import trace

from sagellm_common.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter


def configure_traces(service: str, instance: str, endpoint: str | None) -> "Traces":
    """Send this process' spans to `endpoint` (gRPC; a URL that ends in /v1/traces is spoken to over HTTP)."""
    if not endpoint:
        return Traces(None)
    # Imported here because the exporter costs 0.2 s that a process without traces need not pay.
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create(
        {"service.name": f"sagellm-{service}", "service.instance.id": instance, "service.version": __version__}
    )
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(_exporter(endpoint), schedule_delay_millis=500))
    trace.set_tracer_provider(provider)
    return Traces(provider)


def _exporter(endpoint: str) -> "SpanExporter":
    if endpoint.rstrip("/").endswith("/v1/traces"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter(endpoint=endpoint)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))


class Traces:
    """The tracing of a process; `close` sends what is still buffered."""

    def __init__(self, provider: "TracerProvider | None") -> None:
        self._provider = provider

    def close(self) -> None:
        """Send what is buffered and stop; blocks for at most a few seconds."""
        if self._provider is not None:
            self._provider.shutdown()
