"""How tokens are chosen: the options that a request may carry, with their ranges."""

from pydantic import Field

from sagellm_common.contracts.base import Message

MAX_STOP_STRINGS = 16
MAX_CHOICES = 128
MAX_LOGPROBS = 20


class SamplingOptions(Message):
    """Sampling options of one request, as OpenAI names them, with the usual additions.

    `temperature` 0 is greedy. `top_k` 0 switches the limit off. `seed` None lets the gateway mint one.
    `logprobs` is the number of alternatives per token (0: only the chosen token's), None for no log-probabilities.
    """

    max_tokens: int | None = Field(default=None, ge=1, description="tokens to generate at most; None: what fits")
    min_tokens: int = Field(default=0, ge=0)
    temperature: float = Field(default=1.0, ge=0.0, le=100.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0, le=10.0)
    logit_bias: dict[int, float] = Field(default_factory=dict, max_length=1024)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    stop_token_ids: tuple[int, ...] = Field(default=(), max_length=64)
    ignore_eos: bool = False
