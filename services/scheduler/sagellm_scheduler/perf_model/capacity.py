"""How many requests a second engines can serve at most, by their step times: for planning, and as a bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from sagellm_common.regression import Vector

PRECISION = 1e-6
GRID = 257
LARGEST, TINY = 1e9, 1e-12


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


def prefills_per_s(limits: Limits, mix: Mix) -> float:
    """Return how many prompts a second an engine prefills that does nothing else, in steps as large as it takes, or
    small enough to hide all rows behind what a step costs anyway."""
    base, prefill, _, _, products, over = (float(value) for value in limits.coefficients)
    step, knee = limits.max_batch_tokens, max(TINY, limits.knee)
    per_row = min((base + over * max(0.0, step - knee)) / step, base / min(step, knee))
    return 1.0 / max(TINY, mix.new * (prefill + per_row) + mix.products * products)


def answers_per_s(limits: Limits, mix: Mix, itl_s: float) -> float:
    """Return how many answers a second an engine decodes that does nothing else, in steps as long as is allowed, or as
    all the sequences that it holds take."""
    return _most(lambda answers: _busy(limits, mix, itl_s, 0.0, answers))


def first_token_s(limits: Limits, prompt: float) -> float:
    """Return the seconds to the first token of a prompt of so many tokens on an engine that does nothing else."""
    base, prefill, _, _, products, over = (float(value) for value in limits.coefficients)
    full, rest = divmod(prompt, limits.max_batch_tokens)
    beyond = full * max(0.0, limits.max_batch_tokens - limits.knee) + max(0.0, rest - limits.knee)
    chunk = min(prompt, limits.max_batch_tokens)
    steps = full + (rest > 0)
    return base * steps + prefill * prompt + over * beyond + products * prompt * (prompt + chunk) / 2


def whole_per_s(limits: Limits, mix: Mix, itl_s: float) -> float:
    """Return how many requests a second an engine serves that prefills and decodes them in the same steps, at most
    `itl_s` apart."""
    return _most(lambda rate: _busy(limits, mix, itl_s, rate, rate))


def requests_per_s(fleet: Sequence[Limits], mix: Mix, itl_s: float) -> float:
    """Return the most requests a second that a fleet serves if each engine gives what part of its time it likes to
    prompts alone, and the rest to steps of prompts and answers, whatever the scheduler does.

    Answers go first to where they cost the fewest prompts, which is the optimum of the linear programme.
    """
    trades = [_trades(limits, mix, itl_s) for limits in fleet]
    prompts, answers = sum(alone for alone, _ in trades), 0.0
    segments = [segment for _, found in trades for segment in found]
    segments.sort(key=lambda segment: segment[1] / segment[0])
    for more, fewer in segments:
        if prompts - fewer < answers + more:
            return answers + more * (prompts - answers) / (more + fewer)
        prompts, answers = prompts - fewer, answers + more
    return answers


def _trades(limits: Limits, mix: Mix, itl_s: float) -> tuple[float, list[tuple[float, float]]]:
    """Return how many prompts a second an engine prefills that does nothing else, and what answers cost it: so many
    more a second, so many prompts fewer, the cheapest first."""
    corners = [(0.0, prefills_per_s(limits, mix))]
    for answers in np.linspace(0.0, answers_per_s(limits, mix, itl_s), GRID)[1:].tolist():
        point = answers, _most(partial(_busy, limits, mix, itl_s, answers=answers))
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) <= _slope(corners[-2], point):
            corners.pop()
        corners.append(point)
    pieces = [(right[0] - left[0], left[1] - right[1]) for left, right in pairwise(corners)]
    return corners[0][1], [piece for piece in pieces if piece[0] > 0.0]


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / max(TINY, right[0] - left[0])


def _most(busy: Callable[[float], float]) -> float:
    """Return the largest rate that leaves an engine no more than busy; found by halving."""
    if busy(0.0) > 1.0:
        return 0.0
    low, high = 0.0, 1.0
    while busy(high) <= 1.0 and high < LARGEST:
        low, high = high, 2.0 * high
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        low, high = (middle, high) if busy(middle) <= 1.0 else (low, middle)
    return low


def _busy(limits: Limits, mix: Mix, itl_s: float, prompts: float, answers: float) -> float:
    """Return the share of its time that an engine computes, of so many prompts and answers a second.

    It takes as few steps as the pace, the rows of a step and the sequences that it holds allow, or as many as hide all
    rows behind what a step costs anyway, whichever takes less time.
    """
    base, prefill, decode, context, products, over = (float(value) for value in limits.coefficients)
    tokens = answers * mix.output
    rows = prompts * mix.new + tokens
    held = min(limits.max_num_seqs, limits.max_tokens / max(1.0, mix.context))
    fewest = max(1.0 / itl_s, rows / limits.max_batch_tokens, tokens / held)
    work = prompts * (mix.new * prefill + mix.products * products) + tokens * (decode + context * mix.context)
    counts = (fewest, max(fewest, rows / max(TINY, limits.knee)))
    return work + min(steps * base + over * max(0.0, rows - steps * limits.knee) for steps in counts)
