"""The public API on NATS: one request on `generate`, many replies in the caller's inbox."""

from typing import Any, Literal

from pydantic import Field, model_validator

from sagellm_common.contracts.base import Message
from sagellm_common.contracts.sampling import MAX_STOP_STRINGS, SamplingOptions
from sagellm_common.contracts.slo import Priority, Slo

FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "error"]


class ToolCall(Message):
    """A call of a tool: `arguments` is a JSON text, as OpenAI has it."""

    id: str
    name: str
    arguments: str


class ChatMessage(Message):
    """One message of a chat; `content` is text or OpenAI's list of text parts."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class GenerateRequest(Message):
    """Generate from a prompt (text or token ids) or from a chat; exactly one of `prompt` and `messages` is given."""

    model: str | None = Field(default=None, max_length=512, description="None: the deployment's only or default model")
    prompt: str | list[int] | None = None
    messages: list[ChatMessage] | None = None
    tools: list[dict[str, Any]] | None = None
    sampling: SamplingOptions = SamplingOptions()
    stop: list[str] = Field(default=[], max_length=MAX_STOP_STRINGS)
    include_stop: bool = False
    return_token_ids: bool = False
    slo: Slo = Slo()
    priority: Priority = Priority.NORMAL
    cost_budget: float | None = Field(default=None, gt=0, description="most that the request may cost")
    user: str | None = Field(default=None, max_length=256)
    session: str | None = Field(default=None, max_length=256)
    client_request_id: str | None = Field(default=None, max_length=256, description="an alias of the caller's own")

    @model_validator(mode="after")
    def _one_input(self) -> "GenerateRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of `prompt` and `messages`")
        return self


class Usage(Message):
    """Tokens counted for one request, all choices together."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class TokenLogprob(Message):
    """Log-probability of one token, and of the likeliest alternatives."""

    token: str
    token_id: int
    logprob: float
    top: list["TokenLogprob"] = []


class GenerateReply(Message):
    """One reply of many: text of one choice, or its end, or the end of all (`final`).

    `seq` counts the replies of a request from 0. With `final` come `usage` and, if it failed, `error`.
    """

    request_id: str
    seq: int
    model: str = ""
    choice: int = 0
    text: str = ""
    token_ids: list[int] | None = None
    logprobs: list[TokenLogprob] | None = None
    tool_calls: list[ToolCall] | None = None
    finish_reason: FinishReason | None = None
    final: bool = False
    usage: Usage | None = None
    error: dict[str, Any] | None = None


class CancelRequest(Message):
    """Cancel one request; the same message on `cancel.<request_id>` and `engine.<id>.cancel`.

    `epoch` None cancels every epoch.
    """

    request_id: str
    epoch: int | None = None
    reason: str = ""


class CancelReply(Message):
    """Whether the request was open when the cancel came; a cancel may overtake its dispatch."""

    found: bool
