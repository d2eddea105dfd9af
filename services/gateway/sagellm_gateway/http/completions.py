"""Answers of `POST /v1/completions`, streamed and whole."""

from typing import Any, Literal

from sagellm_common.contracts.generate import FinishReason
from sagellm_gateway.generation.api import Delta, Generation
from sagellm_gateway.http.collected import Collected, raise_if_unfinished
from sagellm_gateway.http.logprobs import completion_logprobs
from sagellm_gateway.http.plan import Plan
from sagellm_gateway.http.schemas.completions import Completion, CompletionChoice, CompletionFinish
from sagellm_gateway.http.schemas.usage import UsageBody
from sagellm_gateway.http.sse import Events


class CompletionEvents(Events):
    """Completion chunks; the finish reason comes with the last text."""

    object_name: Literal["text_completion"] = "text_completion"

    def __init__(self, generation: Generation, plan: Plan) -> None:
        super().__init__(generation, plan)
        self._offsets: dict[int, int] = {}

    def text_choice(self, index: int, text: str) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}

    def choices(self, delta: Delta) -> list[dict[str, Any]]:
        shows_ids = self._token_ids and delta.token_ids
        if not (delta.text or delta.logprobs or delta.finish_reason or shows_ids):
            return []
        choice = self.text_choice(delta.choice, delta.text)
        if delta.logprobs is not None:
            offset = self._offsets.get(delta.choice, 0)
            self._offsets[delta.choice] = offset + sum(len(entry.token) for entry in delta.logprobs)
            choice["logprobs"] = completion_logprobs(delta.logprobs, offset).model_dump()
        if delta.finish_reason is not None:
            choice["finish_reason"] = _finish(delta.finish_reason)
        if self._token_ids:
            choice["token_ids"] = delta.token_ids
        return [choice]


def whole_completion(generation: Generation, choices: list[Collected], plan: Plan) -> bytes:
    """The body of a whole answer."""
    completion = Completion(
        id=generation.request_id,
        object="text_completion",
        created=generation.created,
        model=generation.model,
        choices=[_whole_choice(choice, plan) for choice in choices],
        usage=UsageBody.of(generation.usage),
    )
    return completion.model_dump_json(exclude_unset=True).encode()


def _whole_choice(choice: Collected, plan: Plan) -> CompletionChoice:
    extra: dict[str, Any] = {"token_ids": choice.token_ids} if plan.return_token_ids else {}
    return CompletionChoice(
        index=choice.index,
        text=choice.text,
        logprobs=completion_logprobs(choice.logprobs, 0) if choice.logprobs is not None else None,
        finish_reason=_finish(choice.finish_reason),
        **extra,
    )


def _finish(reason: FinishReason) -> CompletionFinish:
    raise_if_unfinished(reason)
    return "length" if reason == "length" else "stop"
