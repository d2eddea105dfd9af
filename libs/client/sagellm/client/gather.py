"""Putting chunks together to a whole answer."""

from dataclasses import dataclass, field
from typing import Any

from sagellm.client.results import Choice, Chunk, ChunkChoice, Completion, Delta, TokenUsage


@dataclass(slots=True)
class _Parts:
    texts: list[str] = field(default_factory=list)
    role: str | None = None
    tool_calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, choice: ChunkChoice) -> None:
        self.texts.append(choice.added)
        self.token_ids.extend(choice.token_ids or ())
        self.finish_reason = choice.finish_reason or self.finish_reason
        if choice.logprobs is not None:
            self.logprobs.append(choice.logprobs)
        if choice.delta is not None:
            self.role = choice.delta.role or self.role
            for call in choice.delta.tool_calls or ():
                merge_tool_call(self.tool_calls, call)

    def build(self, index: int, is_chat: bool) -> Choice:
        text = "".join(self.texts)
        calls = [self.tool_calls[i] for i in sorted(self.tool_calls)] or None
        message = Delta(role=self.role or "assistant", content=text, tool_calls=calls) if is_chat else None
        return Choice(
            index=index,
            text=text,
            message=message,
            finish_reason=self.finish_reason,
            logprobs=_merged_logprobs(self.logprobs),
            token_ids=self.token_ids or None,
        )


def merge_tool_call(calls: dict[int, dict[str, Any]], piece: dict[str, Any]) -> None:
    """Add a piece of a streamed tool call, which names its call by `index`; its arguments come in parts."""
    index = int(piece.get("index", len(calls)))
    call = calls.setdefault(index, {"type": "function", "function": {"name": "", "arguments": ""}})
    if piece.get("id"):
        call["id"] = piece["id"]
    function = piece.get("function") or {}
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""


def _merged_logprobs(parts: list[Any]) -> Any:
    """Join the log-probabilities of all chunks: lists are concatenated, also inside OpenAI's objects."""
    if not parts:
        return None
    if all(isinstance(part, list) for part in parts):
        return [entry for part in parts for entry in part]
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            merged[key] = [*(merged.get(key) or []), *value] if isinstance(value, list) else value
    return merged


class Gatherer:
    """Takes the chunks of one answer in their order, and builds the whole of them."""

    def __init__(self, is_chat: bool) -> None:
        self._is_chat = is_chat
        self._first: Chunk | None = None
        self._choices: dict[int, _Parts] = {}
        self._usage: TokenUsage | None = None

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk."""
        self._first = self._first or chunk
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices:
            self._choices.setdefault(choice.index, _Parts()).add(choice)

    def build(self) -> Completion:
        """Return the answer so far."""
        return Completion(
            id=self._first.id if self._first else "",
            model=self._first.model if self._first else "",
            created=self._first.created if self._first else 0,
            object="chat.completion" if self._is_chat else "text_completion",
            choices=[self._choices[i].build(i, self._is_chat) for i in sorted(self._choices)],
            usage=self._usage,
        )
