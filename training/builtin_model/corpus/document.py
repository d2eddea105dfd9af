"""What a skill writes: a conversation or a plain text."""

from dataclasses import dataclass, field
from typing import Any

Tool = dict[str, Any]
Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Document:
    """One training or evaluation example.

    A chat has messages (and perhaps tools) in the form of OpenAI's API; a plain text has `text` alone.
    `facts` is what the evaluation needs to judge an answer to the last question.
    """

    skill: str
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    text: str = ""
    sorted_schemas: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


def user(content: str) -> Message:
    """A question."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """An answer."""
    return {"role": "assistant", "content": content}


def system(content: str) -> Message:
    """An instruction that stands before the conversation."""
    return {"role": "system", "content": content}
