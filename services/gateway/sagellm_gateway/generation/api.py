"""The seam between the gateway and its public surfaces (HTTP, NATS): submit a request, iterate over what comes back."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry

from sagellm_common.contracts.generate import FinishReason, GenerateRequest, TokenLogprob, ToolCall, Usage


@dataclass(slots=True)
class Delta:
    """What a client sees next of one choice; with `finish_reason` nothing follows for this choice.

    `text` may be empty while a character, a stop string or a tool call is not yet complete; `token_ids` are the
    tokens taken in since the last delta of the choice. `logprobs` has one entry per token id if they were asked for.
    """

    choice: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    tool_calls: list[ToolCall] | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that at least one registered engine serves; `created` in seconds since the epoch."""

    id: str
    max_model_len: int
    created: int
    engines: tuple[str, ...]


class Generation(Protocol):
    """One accepted request. Iterate over it once; whoever stops iterating early calls `cancel`.

    Each step of the iteration gives all deltas that are there, at least one, so that one wake-up may serve many
    tokens. It raises a SageError if the request fails, and ends after all choices have finished. If the iterating
    task is cancelled while it waits, the request is cancelled too.
    """

    request_id: str
    model: str
    created: int
    """Seconds since the epoch."""
    prompt_tokens: int

    @property
    def usage(self) -> Usage:
        """Tokens counted so far; complete after the end."""

    def __aiter__(self) -> AsyncIterator[list[Delta]]: ...

    async def cancel(self, reason: str) -> None:
        """Give the request up: the engine's work is cancelled; nothing happens if it has ended. Safe to call twice."""


class Gateway(Protocol):
    """The gateway as its surfaces see it."""

    @property
    def registry(self) -> CollectorRegistry:
        """All metrics of this process, aliases included."""

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the gateway is going down."""

    async def submit(self, request: GenerateRequest) -> Generation:
        """Accept a request and return once the scheduler has queued it.

        The current OpenTelemetry context becomes the parent of the request's span. If the calling task is cancelled,
        the request is cancelled too. Raises InvalidArgument (a prompt over the context too), NotFound (model),
        ResourceExhausted, Unavailable or DeadlineExceeded.
        """

    def models(self) -> list[ServedModel]:
        """Models that can be asked for now, by id."""

    def ready(self) -> tuple[bool, str]:
        """Whether requests can be served, and if not, why: one sentence."""
