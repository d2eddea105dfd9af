"""Server-sent events of one stream: all that does not vary is encoded once."""

from typing import Any

import orjson

from sagellm_common.contracts.generate import Usage
from sagellm_gateway.generation.api import Delta, Generation
from sagellm_gateway.http.plan import Plan
from sagellm_gateway.http.schemas.usage import UsageBody

DONE = b"data: [DONE]\n\n"
_MARK = "\x00text\x00"
_JSON_MARK = orjson.dumps(_MARK)
Frame = tuple[bytes, bytes]
"""An event up to its text, and from its text on."""


class Events:
    """Encodes deltas as events; a subclass knows its API's shape.

    The common event, text alone, is two prepared pieces around the text; whatever else is encoded whole. Both come
    from the same function, so they cannot differ.
    """

    object_name: str

    def __init__(self, generation: Generation, plan: Plan) -> None:
        self._head: dict[str, Any] = {
            "id": generation.request_id,
            "object": self.object_name,
            "created": generation.created,
            "model": generation.model,
        }
        self._tail: dict[str, Any] = {"usage": None} if plan.include_usage else {}
        self._token_ids = plan.return_token_ids
        self._frames: dict[int, Frame] = {}

    def encode(self, deltas: list[Delta]) -> bytes:
        """One event per delta, at least; none for a delta that shows nothing. Raises for an answer cut short."""
        parts: list[bytes] = []
        for delta in deltas:
            if (
                delta.finish_reason is None
                and delta.logprobs is None
                and not delta.tool_calls
                and not self._token_ids
                and (frame := self._frames.get(delta.choice)) is not None
            ):
                if delta.text:
                    parts += (frame[0], orjson.dumps(delta.text), frame[1])
            else:
                self._encode_other(delta, parts)
        return b"".join(parts)

    def usage(self, usage: Usage) -> bytes:
        """The event with the usage and no choices."""
        return self.event([], usage=UsageBody.of(usage).model_dump())

    def event(self, choices: list[dict[str, Any]], **tail: Any) -> bytes:
        """Encode one event."""
        return b"data: " + orjson.dumps({**self._head, "choices": choices, **self._tail, **tail}) + b"\n\n"

    def _encode_other(self, delta: Delta, parts: list[bytes]) -> None:
        if delta.choice not in self._frames:
            before, after = self.event([self.text_choice(delta.choice, _MARK)]).split(_JSON_MARK)
            self._frames[delta.choice] = before, after
            parts += [self.event([choice]) for choice in self.opening(delta.choice)]
        parts += [self.event([choice]) for choice in self.choices(delta)]

    def opening(self, index: int) -> list[dict[str, Any]]:
        """What goes before a choice's first text."""
        return []

    def text_choice(self, index: int, text: str) -> dict[str, Any]:
        """A choice with text alone."""
        raise NotImplementedError

    def choices(self, delta: Delta) -> list[dict[str, Any]]:
        """A delta as choices, one per event; none if it shows nothing."""
        raise NotImplementedError
