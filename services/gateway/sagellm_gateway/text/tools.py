"""Tool calls in a stream of text, in the format of Qwen's and Hermes' templates.

<tool_call>{"name": "weather", "arguments": {"city": "Lyon"}}</tool_call>
"""

import json
import secrets
from typing import Any

from sagellm_common.contracts.generate import ToolCall

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class ToolCallParser:
    """Splits a stream into text for the reader and tool calls; no part of a tag is ever shown.

    What stands in the tags and is no call (malformed JSON, no name) comes back as text, tags included.
    White space right after a call is dropped. Chunking makes no difference.
    """

    __slots__ = ("_after_call", "_body", "_held", "_inside")

    def __init__(self) -> None:
        self._held = ""
        self._body = ""
        self._inside = False
        self._after_call = False

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """Take text, return what may be shown and the calls that are complete with it."""
        if not self._inside and not self._held and not self._after_call and "<" not in text:
            return text, []
        shown: list[str] = []
        calls: list[ToolCall] = []
        rest = text
        while rest:
            rest = self._take_body(rest, shown, calls) if self._inside else self._take_text(rest, shown)
        return "".join(shown), calls

    def flush(self) -> tuple[str, list[ToolCall]]:
        """End the stream: an unclosed call counts if it is complete, else what was held back is text."""
        if not self._inside:
            text, self._held = self._held, ""
            return text, []
        body, self._inside, self._body = self._body, False, ""
        call = parse_tool_call(body)
        return ("", [call]) if call else (_OPEN + body, [])

    def _take_text(self, text: str, shown: list[str]) -> str:
        """Outside of a call: show text up to a tag, hold back what may become one; return what lies behind it."""
        text, self._held = self._held + text, ""
        if self._after_call:
            text = text.lstrip()
            self._after_call = not text
        before, tag, rest = text.partition(_OPEN)
        if tag:
            shown.append(before)
            self._inside = True
            return rest
        keep = len(text) - _tag_prefix_length(text)
        shown.append(text[:keep])
        self._held = text[keep:]
        return ""

    def _take_body(self, text: str, shown: list[str], calls: list[ToolCall]) -> str:
        """Inside of a call: collect up to the closing tag, then parse; return what lies behind it."""
        searched = max(0, len(self._body) - len(_CLOSE) + 1)
        self._body += text
        end = self._body.find(_CLOSE, searched)
        if end < 0:
            return ""
        body, rest = self._body[:end], self._body[end + len(_CLOSE) :]
        self._body, self._inside = "", False
        call = parse_tool_call(body)
        if call:
            calls.append(call)
            self._after_call = True
        else:
            shown.append(_OPEN + body + _CLOSE)
        return rest


def parse_tool_call(body: str) -> ToolCall | None:
    """Parse what stands between the tags; None when it is no call. A call without arguments has `{}`."""
    try:
        value = json.loads(body)
    except (json.JSONDecodeError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = _arguments_text(value.get("arguments", {}))
    if arguments is None:
        return None
    return ToolCall(id=f"call_{secrets.token_hex(12)}", name=value["name"], arguments=arguments)


def _arguments_text(arguments: Any) -> str | None:
    """Arguments as a JSON text; some models write them as a text already."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (json.JSONDecodeError, RecursionError):
            return None
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else None


def _tag_prefix_length(text: str) -> int:
    """Length of the longest end of `text` that may still become an opening tag."""
    for length in range(min(len(_OPEN) - 1, len(text)), 0, -1):
        if _OPEN.startswith(text[-length:]):
            return length
    return 0
