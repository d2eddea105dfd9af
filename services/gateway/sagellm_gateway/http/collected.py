"""Gathering an answer that is not streamed."""

from dataclasses import dataclass, field

from sagellm_common.contracts.generate import FinishReason, TokenLogprob, ToolCall
from sagellm_common.errors import Cancelled, Internal
from sagellm_gateway.generation.api import Delta, Generation


@dataclass(slots=True)
class Collected:
    """All of one choice."""

    index: int
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish_reason: FinishReason = "stop"

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def add(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.token_ids += delta.token_ids
        if delta.logprobs is not None:
            self.logprobs = [*(self.logprobs or ()), *delta.logprobs]
        if delta.tool_calls:
            self.tool_calls += delta.tool_calls
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason


async def collect(generation: Generation) -> list[Collected]:
    """Wait for the whole answer; choices in order."""
    choices: dict[int, Collected] = {}
    async for deltas in generation:
        for delta in deltas:
            if delta.choice not in choices:
                choices[delta.choice] = Collected(delta.choice)
            choices[delta.choice].add(delta)
    return [choices[index] for index in sorted(choices)]


def raise_if_unfinished(reason: FinishReason) -> None:
    """OpenAI has no finish reason for an answer that was cut short; such an answer is an error."""
    if reason == "cancelled":
        raise Cancelled("the request was cancelled before its answer was complete")
    if reason == "error":
        raise Internal("the engine could not complete the answer")
