"""The client's span of a request: it begins the trace that goes through all services."""

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from sagellm.client.results import TokenUsage
from sagellm_common.contracts.generate import GenerateRequest
from sagellm_common.errors import SageError


class RequestSpan:
    """One request as the client sees it, with the attributes of OpenTelemetry's GenAI conventions."""

    def __init__(self, request: GenerateRequest, transport: str) -> None:
        operation = "chat" if request.messages is not None else "text_completion"
        attributes: dict[str, str | int | float] = {"gen_ai.operation.name": operation, "network.transport": transport}
        if request.model:
            attributes["gen_ai.request.model"] = request.model
        if request.sampling.max_tokens is not None:
            attributes["gen_ai.request.max_tokens"] = request.sampling.max_tokens
        tracer = trace.get_tracer("sagellm.client")
        self._span: Span = tracer.start_span("sagellm.client", kind=SpanKind.CLIENT, attributes=attributes)
        self._ended = False

    def headers(self) -> dict[str, str]:
        """Headers that carry the trace onwards; empty when nothing is traced."""
        carrier: dict[str, str] = {}
        if self._span.get_span_context().is_valid:
            propagate.inject(carrier, trace.set_span_in_context(self._span, context.get_current()))
        return carrier

    def end(self, request_id: str | None, usage: TokenUsage | None, error: BaseException | None) -> None:
        """End the span with what came of the request; a second call does nothing."""
        if self._ended:
            return
        self._ended = True
        if request_id:
            self._span.set_attribute("gen_ai.response.id", request_id)
        if usage is not None:
            self._span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
            self._span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
        if error is not None:
            code = error.code if isinstance(error, SageError) else type(error).__name__
            self._span.set_attribute("error.type", code)
            self._span.set_status(Status(StatusCode.ERROR, str(error)))
        self._span.end()
