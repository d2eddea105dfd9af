"""Bodies of `POST /v1/completions`."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from sagellm_common.contracts.base import Message
from sagellm_gateway.http.schemas.fields import GenerationFields, Text, expected
from sagellm_gateway.http.schemas.usage import UsageBody

MAX_PROMPTS = 128

_Ids = list[Annotated[int, Strict()]]
Prompt = Annotated[
    Text | _Ids | list[Text] | list[_Ids],
    Field(union_mode="left_to_right"),
    expected("a text, a list of token ids, or a list of either is expected"),
]
CompletionFinish = Literal["stop", "length"]


class CompletionRequest(GenerationFields):
    """Continue a text, or several: choice i × n + j is the j-th of prompt i.

    A field that is null counts as left out; unknown fields are ignored.
    """

    prompt: Prompt
    echo: bool = Field(default=False, description="not offered")
    suffix: str | None = Field(default=None, description="not offered")
    best_of: int | None = Field(default=None, description="not offered, unless equal to n")

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one."""
        prompt = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            return list(prompt)
        return [prompt]  # type: ignore[list-item]  # a text or one list of token ids, by its first item


class CompletionLogprobs(Message):
    """Log-probabilities, as parallel lists; `text_offset` counts characters of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(Message):
    """One choice, whole or what a chunk adds to it; `finish_reason` is null while it goes on."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: CompletionFinish | None
    token_ids: list[int] | None = None


class Completion(Message):
    """A whole answer, or one event of a streamed one. `id` is the (first) request's id."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageBody | None = None
