"""How many requests a second engines can serve at most, by their step times: for planning, and as a bound."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sagellm_common.regression import Vector

PRECISION = 1e-6


@dataclass(frozen=True, slots=True)
class Mix:
    """What a request asks for on average; tokens.

    `new`: of the prompt, what is not in a cache; `output`: of the answer; `context`: mean length while it decodes;
    `products`: sum of chunk × context of its new tokens.
    """

    new: float
    output: float
    context: float
    products: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one engine: step times in seconds per feature (see `steps.features`, unscaled) [6], the knee in rows, how many
    tokens a step takes, and how many sequences and tokens of context it holds."""

    coefficients: Vector
    knee: float
    max_batch_tokens: float
    max_num_seqs: float
    max_tokens: float


def prefills_per_s(limits: Limits, mix: Mix, *, beside: bool = False) -> float:
    """Return how many prompts a second an engine prefills that does nothing else, in steps as large as it takes; or
    could prefill in steps that it takes anyway, `beside` sequences that decode."""
    base, prefill, _, _, products, over = (float(value) for value in limits.coefficients)
    step = limits.max_batch_tokens
    per_token = prefill + (base * (not beside) + over * max(0.0, step - limits.knee)) / step
    return 1.0 / max(1e-12, mix.new * per_token + mix.products * products)


def answers_per_s(limits: Limits, mix: Mix, itl_s: float) -> float:
    """Return how many answers a second an engine decodes that does nothing else, in steps as long as is allowed, or as
    all the sequences that it holds take."""
    base, _, decode, context, _, over = (float(value) for value in limits.coefficients)
    per_sequence = decode + context * mix.context
    sequences = (itl_s - base) / max(1e-12, per_sequence)
    if sequences > limits.knee:
        sequences = (itl_s - base + over * limits.knee) / max(1e-12, per_sequence + over)
    held = min(limits.max_num_seqs, limits.max_tokens / max(1.0, mix.context))
    if sequences > held:
        sequences = held
        itl_s = base + per_sequence * held + over * max(0.0, held - limits.knee)
    return max(0.0, sequences) / (itl_s * max(1.0, mix.output))


def first_token_s(limits: Limits, prompt: float) -> float:
    """Return the seconds to the first token of a prompt of so many tokens on an engine that does nothing else."""
    base, prefill, _, _, products, over = (float(value) for value in limits.coefficients)
    full, rest = divmod(prompt, limits.max_batch_tokens)
    beyond = full * max(0.0, limits.max_batch_tokens - limits.knee) + max(0.0, rest - limits.knee)
    chunk = min(prompt, limits.max_batch_tokens)
    steps = full + (rest > 0)
    return base * steps + prefill * prompt + over * beyond + products * prompt * (prompt + chunk) / 2


def whole_per_s(limits: Limits, mix: Mix, itl_s: float) -> float:
    """Return how many requests a second an engine serves that prefills and decodes them: prompts lengthen the steps of
    those that decode, as many as keep the mean step within `itl_s`. Found by halving."""
    low, high = 0.0, prefills_per_s(limits, mix)
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _bears(limits, mix, itl_s, middle) else (low, middle)
    return low


def _bears(limits: Limits, mix: Mix, itl_s: float, rate: float) -> bool:
    """Whether the mean step stays within a limit, with as many sequences as come to run beside one another then."""
    base, prefill, decode, context, products, over = (float(value) for value in limits.coefficients)
    prompts = rate * (mix.new * (prefill + over) + mix.products * products)
    held = min(limits.max_num_seqs, limits.max_tokens / max(1.0, mix.context))
    per_sequence = decode + context * mix.context
    left = 1.0 - prompts - rate * mix.output * per_sequence
    if left <= 0.0:
        return False
    step = base / left
    sequences = rate * mix.output * step
    if sequences > limits.knee:
        left -= rate * mix.output * over
        step = (base - over * limits.knee) / left if left > 0.0 else math.inf
        sequences = rate * mix.output * step
    return step <= itl_s and sequences <= held


def requests_per_s(fleet: Sequence[Limits], mix: Mix, itl_s: float) -> float:
    """Return the most requests a second that a fleet serves if each engine gives what part of its time it likes to
    prompts and the rest to answers, whatever the scheduler does.

    Prompts go first to the engines that are best at them compared with decoding, which is the optimum of the linear
    programme; the rate is found by halving.
    """
    rates = [(prefills_per_s(limits, mix, beside=True), answers_per_s(limits, mix, itl_s)) for limits in fleet]
    rates.sort(key=lambda rate: rate[1] / rate[0])
    low, high = 0.0, sum(prefill for prefill, _ in rates)
    while high - low > PRECISION * max(high, 1.0):
        middle = (low + high) / 2
        low, high = (middle, high) if _serves(rates, middle) else (low, middle)
    return low


def _serves(rates: Sequence[tuple[float, float]], rate: float) -> bool:
    """Whether engines, of which the first prefill as long as need be, decode as many answers a second."""
    left, answers = rate, 0.0
    for prefill, decode in rates:
        share = min(1.0, left / prefill)
        left -= share * prefill
        answers += (1.0 - share) * decode
    return left <= PRECISION and answers >= rate
