"""Bodies of `POST /v1/chat/completions`."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from sagellm_common.contracts.base import Message
from sagellm_common.contracts.generate import ChatMessage
from sagellm_common.contracts.sampling import MAX_LOGPROBS
from sagellm_gateway.http.schemas.fields import GenerationFields, expected
from sagellm_gateway.http.schemas.usage import UsageBody

ChatFinish = Literal["stop", "length", "tool_calls"]


class _ForTheTemplate(Message):
    """A body whose unknown fields are kept, because the model's chat template may show them."""

    model_config = ConfigDict(extra="allow")


class FunctionDefinition(_ForTheTemplate):
    """A function that the model may call; `parameters` is a JSON Schema."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(_ForTheTemplate):
    """A tool that the model may use."""

    type: Literal["function"]
    function: FunctionDefinition


ToolChoice = Annotated[
    Literal["none", "auto", "required"] | dict[str, Any],
    expected('"none", "auto", "required" or an object is expected'),
]


class ChatRequest(GenerationFields):
    """Continue a chat. A field that is null counts as left out; unknown fields are ignored."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1, description="the newer name of max_tokens")
    logprobs: bool = False  # OpenAI asks by a flag in chats, by a number in completions
    top_logprobs: int = Field(default=0, ge=0, le=MAX_LOGPROBS)
    tools: list[Tool] = Field(default=[], max_length=128)
    tool_choice: ToolChoice = Field(default="auto", description="`none` and `auto` are offered")


class FunctionCall(Message):
    """A call: `arguments` is a JSON text."""

    name: str
    arguments: str


class ToolCallBody(Message):
    """A call of a tool by the model."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ToolCallDelta(ToolCallBody):
    """A call in a stream; always whole."""

    index: int


class AssistantMessage(Message):
    """The answer of one choice."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCallBody] | None = None


class TopLogprob(Message):
    """An alternative to a token."""

    token: str
    logprob: float
    bytes: list[int] | None = Field(description="UTF-8 of the token; null for a part of a character")


class ChatLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Message):
    """Log-probabilities of the answer's tokens."""

    content: list[ChatLogprob]
    refusal: None = None


class ChatChoice(Message):
    """One choice of a whole answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish
    token_ids: list[int] | None = None


class ChatCompletion(Message):
    """A whole answer. `id` is the request's id."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody


class ChatDelta(Message):
    """What a chunk adds to a choice's message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(Message):
    """What a chunk adds to a choice."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish | None
    token_ids: list[int] | None = None


class ChatCompletionChunk(Message):
    """One event of a streamed answer; the stream ends with `data: [DONE]`, or after an error's event without it."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: UsageBody | None = None
