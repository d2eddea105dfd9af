"""A real OTLP receiver over gRPC that keeps the spans it gets."""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc  # type: ignore[import-untyped]  # its stubs are no dependency of ours
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span, with the name of the service that sent it; ids in hex, `parent_id` empty for a root; times in ns."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]


class OtlpReceiver(service.TraceServiceServicer):
    """Spans in the order in which they came."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def Export(self, request: Any, context: Any) -> Any:
        """Take one batch, as the protocol's service definition has it."""
        for resource_spans in request.resource_spans:
            name = _attributes(resource_spans.resource.attributes).get("service.name", "")
            for scope_spans in resource_spans.scope_spans:
                self.spans.extend(_span(str(name), span) for span in scope_spans.spans)
        return messages.ExportTraceServiceResponse()

    def traces(self) -> dict[str, list[ReceivedSpan]]:
        """Return the spans by trace id."""
        found: dict[str, list[ReceivedSpan]] = defaultdict(list)
        for span in list(self.spans):
            found[span.trace_id].append(span)
        return dict(found)


def orphans(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
    """Return the spans of a trace whose parent is not in it."""
    ids = {span.span_id for span in spans}
    return [span for span in spans if span.parent_id and span.parent_id not in ids]


@contextmanager
def receiving() -> Iterator[OtlpReceiver]:
    """A receiver on a free loopback port for the time of the block."""
    receiver = OtlpReceiver()
    server = grpc.server(ThreadPoolExecutor(2))
    service.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]  # generated code
    receiver.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()


def _span(service_name: str, span: Any) -> ReceivedSpan:
    return ReceivedSpan(
        service_name,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span.attributes),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}
