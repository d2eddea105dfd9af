"""What clients return: objects in OpenAI's shape, and their text at hand as `.text`."""

from typing import Any, Literal

from sagellm_common.contracts.base import Message
from sagellm_common.contracts.generate import Usage as TokenUsage

__all__ = ["Choice", "Chunk", "ChunkChoice", "Completion", "Delta", "Model", "TokenUsage"]


class Model(Message):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "sagellm"


class Delta(Message):
    """What one chunk adds to a chat message."""

    role: str | None = None
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChunkChoice(Message):
    """What one chunk adds to one choice; `delta` for chats, `text` for completions."""

    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None
    token_ids: list[int] | None = None

    @property
    def added(self) -> str:
        """The text that this chunk adds, of either kind."""
        return self.text or (self.delta.content if self.delta else None) or ""


class Chunk(Message):
    """One piece of a streamed answer. `usage` comes with the last one."""

    id: str
    model: str = ""
    object: str = ""
    created: int = 0
    choices: list[ChunkChoice] = []
    usage: TokenUsage | None = None

    @property
    def text(self) -> str:
        """What this chunk adds to the first choice."""
        return "".join(choice.added for choice in self.choices if choice.index == 0)


class Choice(Message):
    """One whole answer; `message` is set for chats, `text` always."""

    index: int = 0
    text: str = ""
    message: Delta | None = None
    finish_reason: str | None = None
    logprobs: Any = None
    token_ids: list[int] | None = None


class Completion(Message):
    """A whole answer, with all its choices."""

    id: str
    model: str = ""
    object: str = "text_completion"
    created: int = 0
    choices: list[Choice]
    usage: TokenUsage | None = None

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text if self.choices else ""
