"""What the gateway keeps about an open request beside its state: the client's stream, the span, who waits."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from sagellm_common.contracts.generate import GenerateRequest
from sagellm_gateway.core.request import Outcome, Request
from sagellm_gateway.generation.stream import TokenStream

_tracer = trace.get_tracer("sagellm.gateway")


@dataclass(slots=True)
class Record:
    """One open request of this gateway. `placed` is done once the scheduler has it, or it has ended."""

    request: Request
    stream: TokenStream
    span: Span
    placed: asyncio.Future[None]

    @contextmanager
    def in_trace(self) -> Iterator[None]:
        """Run the block as part of the request's trace."""
        token = context.attach(trace.set_span_in_context(self.span))
        try:
            yield
        finally:
            context.detach(token)


def start_span(request: GenerateRequest, request_id: str, model: str, prompt_tokens: int) -> Span:
    """Start the span of a request as a child of the current one, with GenAI's attributes."""
    sampling = request.sampling
    attributes: dict[str, str | int | float] = {
        "gen_ai.operation.name": "chat" if request.messages is not None else "text_completion",
        "gen_ai.system": "sagellm",
        "gen_ai.request.model": model,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.usage.input_tokens": prompt_tokens,
        "sagellm.request_id": request_id,
    }
    if sampling.max_tokens is not None:
        attributes["gen_ai.request.max_tokens"] = sampling.max_tokens
    if request.client_request_id is not None:
        attributes["sagellm.client_request_id"] = request.client_request_id
    return _tracer.start_span("gateway.request", kind=SpanKind.SERVER, attributes=attributes)


def end_span(span: Span, model: str, outcome: Outcome) -> None:
    """End the span of a request with what came of it."""
    if span.is_recording():
        span.set_attribute("gen_ai.response.model", model)
        span.set_attribute("gen_ai.response.finish_reasons", list(outcome.finish_reasons))
        span.set_attribute("gen_ai.usage.output_tokens", outcome.completion_tokens)
        span.set_attribute("sagellm.epoch", outcome.epoch)
        if outcome.engine_id is not None:
            span.set_attribute("sagellm.engine_id", outcome.engine_id)
    if outcome.error is not None:
        span.set_attribute("error.type", outcome.error.code)
        if outcome.error.code != "cancelled":
            span.set_status(StatusCode.ERROR, outcome.error.message)
    span.end()
