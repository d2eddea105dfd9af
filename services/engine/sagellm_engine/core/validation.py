"""The one place that checks a request before the engine takes it."""

from math import isfinite

from sagellm_common.errors import InvalidArgument
from sagellm_engine.core.types import EngineRequest, ModelInfo, SamplingParams

MAX_LOGPROBS = 20
MAX_CHOICES = 128

_RANGES: tuple[tuple[str, float, float], ...] = (
    ("temperature", 0.0, 100.0),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
    ("repetition_penalty", 1e-3, 10.0),
    ("max_tokens", 1, float("inf")),
    ("top_k", 0, float("inf")),
    ("min_tokens", 0, float("inf")),
    ("seed", -(2**63), 2**64 - 1),
)


def _refuse(param: str, value: object, wanted: str) -> InvalidArgument:
    return InvalidArgument(f"{param} is {value!r}; it must be {wanted}", param=param)


def validate_sampling(sampling: SamplingParams, vocab_size: int) -> None:
    """Check every range; raises InvalidArgument that names the parameter."""
    for name, low, high in _RANGES:
        value = getattr(sampling, name)
        if not low <= value <= high:  # also refuses NaN
            raise _refuse(name, value, f"from {low} to {high}" if isfinite(high) else f"at least {low}")
    if sampling.top_p == 0.0:
        raise _refuse("top_p", sampling.top_p, "above 0")
    if sampling.logprobs is not None and not 0 <= sampling.logprobs <= MAX_LOGPROBS:
        raise _refuse("logprobs", sampling.logprobs, f"from 0 to {MAX_LOGPROBS}, or absent")
    if sampling.min_tokens > sampling.max_tokens:
        raise _refuse("min_tokens", sampling.min_tokens, f"at most max_tokens ({sampling.max_tokens})")
    _check_tokens("logit_bias", tuple(sampling.logit_bias), vocab_size)
    _check_tokens("stop_token_ids", sampling.stop_token_ids, vocab_size)
    for token, bias in sampling.logit_bias.items():
        if not isfinite(bias):
            raise _refuse("logit_bias", {token: bias}, "finite")


def validate_request(request: EngineRequest, info: ModelInfo) -> None:
    """Check a request against the model; raises InvalidArgument that names the parameter."""
    prompt, size = request.prompt_token_ids, info.vocab_size
    if not prompt:
        raise InvalidArgument("the prompt has no tokens", param="prompt")
    longest = len(prompt) + max((len(tokens) for tokens in request.delivered), default=0)
    if len(prompt) >= info.max_model_len or longest > info.max_model_len:
        raise InvalidArgument(
            f"the prompt has {longest} tokens and leaves no room in a context of {info.max_model_len}; shorten it",
            param="prompt",
        )
    _check_tokens("prompt", prompt, size)
    if not 1 <= request.num_choices <= MAX_CHOICES:
        raise _refuse("num_choices", request.num_choices, f"from 1 to {MAX_CHOICES}")
    if request.delivered and len(request.delivered) != request.num_choices:
        raise _refuse("delivered", len(request.delivered), "one list per choice")
    for tokens in request.delivered:
        _check_tokens("delivered", tokens, size)
    validate_sampling(request.sampling, size)


def _check_tokens(param: str, tokens: tuple[int, ...] | list[int], vocab_size: int) -> None:
    if tokens and not (min(tokens) >= 0 and max(tokens) < vocab_size):
        raise InvalidArgument(f"{param} holds token ids outside 0 to {vocab_size - 1}", param=param)
