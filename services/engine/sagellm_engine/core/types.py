"""What goes into the engine's core and what comes out of it. Only the standard library and the error tree."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from sagellm_common.errors import SageError

RequestKey = tuple[str, int]
"""(request id, epoch): one attempt at a request."""


class FinishReason(StrEnum):
    """Why a choice has ended."""

    STOP = "stop"  # the model ended it, or a stop token came up
    LENGTH = "length"  # max_tokens or the context is full
    CANCELLED = "cancelled"  # the caller asked for it
    ERROR = "error"  # TokenOutput.error says what


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen. `core.validation.validate_sampling` checks the ranges.

    `max_tokens` counts generated tokens, those delivered by earlier epochs included. `temperature` 0 is greedy.
    `top_k` 0, `top_p` 1 and `min_p` 0 switch their limits off. `seed` is any 64-bit integer. `logprobs` is the number
    of alternatives per token, 0 to 20, or None for no log-probabilities. `stop_token_ids` end a choice as the model's
    own end tokens do; `ignore_eos` switches the latter off. Below `min_tokens` no end token is chosen.
    """

    max_tokens: int
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One epoch of a request.

    `delivered` holds, per choice, tokens that earlier epochs have delivered: they are prefilled, and generation
    continues at that index; empty means none. `finished_choices` have ended before and are left out. A smaller
    `priority` goes first. `deadline` and `arrival` are seconds on the clock whose readings the core gets as `now`.
    `itl_s` is the time from token to token that the request is promised, in seconds.
    `group` is an opaque label that comes back with every output. `hold`: only the prompt is computed, and the first
    token chosen; its pages are held then for another engine to read, until `EngineCore.release_held`.
    """

    key: RequestKey
    prompt_token_ids: tuple[int, ...] | list[int]
    sampling: SamplingParams
    delivered: tuple[tuple[int, ...], ...] = ()
    num_choices: int = 1
    finished_choices: tuple[int, ...] = ()
    priority: int = 2
    deadline: float | None = None
    itl_s: float | None = None
    group: str = ""
    arrival: float = 0.0
    hold: bool = False


class TokenLogprobs(NamedTuple):
    """Log-probability of a chosen token under the model's own distribution, and the likeliest alternatives."""

    logprob: float
    top: tuple[tuple[int, float], ...]


class TokenOutput(NamedTuple):
    """New tokens of one choice (a named tuple, because hundreds are made in every step).

    `first_index` is the place of the first new token in the choice's output. A token that ends the choice is
    included. With `finish` nothing follows for this choice. `cached_tokens`, set with the first tokens, counts prompt
    tokens that were found in the prefix cache.
    """

    key: RequestKey
    choice: int
    first_index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    finish: FinishReason | None = None
    error: SageError | None = None
    group: str = ""
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step computed and how long it took.

    `rows` = `prefill_tokens` + `decode_seqs`. `context_tokens` sums the context lengths of the decoding sequences,
    `chunk_x_context` sums prefill chunk length × context length at the chunk's end. `cached_tokens` were found in the
    prefix cache by sequences admitted in this step.
    """

    duration_s: float = 0.0
    rows: int = 0
    prefill_tokens: int = 0
    decode_seqs: int = 0
    context_tokens: int = 0
    chunk_x_context: int = 0
    cached_tokens: int = 0
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class CacheChanges:
    """Index blocks, by chained hash, that the prefix cache has come to hold and holds no longer."""

    stored: tuple[int, ...]
    removed: tuple[int, ...]


class FirstToken(NamedTuple):
    """What a prefill made beside keys and values; all that another engine needs to go on behind them."""

    token_id: int
    logprobs: TokenLogprobs | None = None


class Held(NamedTuple):
    """How far a request with `hold` is: its pages in order, how many of them have been written to the end, and with
    the last of them the first token."""

    key: RequestKey
    pages: tuple[int, ...]
    num_ready: int
    first: FirstToken | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Everything that one step made; all `rows` 0 in the report when nothing was computed.

    `admitted` names the requests of which a sequence began to be computed, or began again, in this step. `held` tells
    of the requests with `hold` that got on.
    """

    tokens: list[TokenOutput] = field(default_factory=list)
    report: StepReport = StepReport()
    admitted: list[RequestKey] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EngineGauges:
    """State of the engine between two steps. Pages: free + cached + held by running sequences = total.

    `prefill_tokens` are still to be computed, of the `prefilling` and of the waiting sequences together; what waiting
    ones find in the prefix cache does not count. `itl_limit_s` is the promised time from token to token that the last
    step kept to; 0 if there was none. `leaving` of the running and waiting ones, with `leaving_tokens`, are prompts
    for other engines.
    """

    pages_total: int
    pages_free: int
    pages_cached: int
    waiting: int
    running: int
    waiting_tokens: int
    running_tokens: int
    prefilling: int = 0
    prefill_tokens: int = 0
    itl_limit_s: float = 0.0
    leaving: int = 0
    leaving_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a loaded model and its backend are.

    `kind` names backend, precision and architecture: engines of one kind compute alike. `num_pages` pages of
    `page_size` tokens hold the KV cache.
    """

    vocab_size: int
    max_model_len: int
    num_pages: int
    page_size: int
    eos_token_ids: frozenset[int]
    backend: str
    kind: str
