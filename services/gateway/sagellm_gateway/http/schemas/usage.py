"""Token counts, in OpenAI's shape."""

from sagellm_common.contracts.base import Message
from sagellm_common.contracts.generate import Usage


class PromptTokensDetails(Message):
    """Where the prompt's tokens came from."""

    cached_tokens: int


class UsageBody(Message):
    """Tokens counted for one HTTP request, all choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, usage: Usage) -> "UsageBody":
        return cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.cached_tokens),
        )
