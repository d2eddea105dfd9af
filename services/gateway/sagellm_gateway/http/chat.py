"""Answers of `POST /v1/chat/completions`, streamed and whole."""

from typing import Any, Literal, cast

from sagellm_common.contracts.generate import FinishReason, ToolCall
from sagellm_gateway.generation.api import Delta, Generation
from sagellm_gateway.http.collected import Collected, raise_if_unfinished
from sagellm_gateway.http.logprobs import chat_logprobs
from sagellm_gateway.http.plan import Plan
from sagellm_gateway.http.schemas.chat import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatFinish,
    FunctionCall,
    ToolCallBody,
    ToolCallDelta,
)
from sagellm_gateway.http.schemas.usage import UsageBody
from sagellm_gateway.http.sse import Events


class ChatEvents(Events):
    """Chat chunks: the role first, then text and calls, then the finish reason in a chunk of its own."""

    object_name: Literal["chat.completion.chunk"] = "chat.completion.chunk"

    def __init__(self, generation: Generation, plan: Plan) -> None:
        super().__init__(generation, plan)
        self._num_calls: dict[int, int] = {}

    def opening(self, index: int) -> list[dict[str, Any]]:
        return [_choice(index, {"role": "assistant", "content": ""})]

    def text_choice(self, index: int, text: str) -> dict[str, Any]:
        return _choice(index, {"content": text})

    def choices(self, delta: Delta) -> list[dict[str, Any]]:
        choices: list[dict[str, Any]] = []
        if delta.text or delta.logprobs or (self._token_ids and delta.token_ids):
            choices.append(self._content(delta))
        if delta.tool_calls:
            choices.append(_choice(delta.choice, {"tool_calls": self._calls(delta.choice, delta.tool_calls)}))
        if delta.finish_reason is not None:
            choices.append(_choice(delta.choice, {}) | {"finish_reason": _finish(delta.finish_reason)})
        return choices

    def _content(self, delta: Delta) -> dict[str, Any]:
        choice = self.text_choice(delta.choice, delta.text)
        if delta.logprobs is not None:
            choice["logprobs"] = chat_logprobs(delta.logprobs).model_dump()
        if self._token_ids:
            choice["token_ids"] = delta.token_ids
        return choice

    def _calls(self, choice: int, calls: list[ToolCall]) -> list[dict[str, Any]]:
        first = self._num_calls.get(choice, 0)
        self._num_calls[choice] = first + len(calls)
        return [ToolCallDelta(index=first + i, **_call(call).model_dump()).model_dump() for i, call in enumerate(calls)]


def whole_chat(generation: Generation, choices: list[Collected], plan: Plan) -> bytes:
    """The body of a whole answer."""
    completion = ChatCompletion(
        id=generation.request_id,
        object="chat.completion",
        created=generation.created,
        model=generation.model,
        choices=[_whole_choice(choice, plan) for choice in choices],
        usage=UsageBody.of(generation.usage),
    )
    return completion.model_dump_json(exclude_unset=True).encode()


def _whole_choice(choice: Collected, plan: Plan) -> ChatChoice:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.tool_calls:
        message |= {"content": choice.text or None, "tool_calls": [_call(call) for call in choice.tool_calls]}
    extra: dict[str, Any] = {"token_ids": choice.token_ids} if plan.return_token_ids else {}
    return ChatChoice(
        index=choice.index,
        message=AssistantMessage(**message),
        logprobs=chat_logprobs(choice.logprobs) if choice.logprobs is not None else None,
        finish_reason=_finish(choice.finish_reason),
        **extra,
    )


def _choice(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _call(call: ToolCall) -> ToolCallBody:
    return ToolCallBody(id=call.id, type="function", function=FunctionCall(name=call.name, arguments=call.arguments))


def _finish(reason: FinishReason) -> ChatFinish:
    raise_if_unfinished(reason)
    return cast(ChatFinish, reason)
