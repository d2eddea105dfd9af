"""From step times to what a request will see: time to the first token, and time per token after it."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sagellm_common.pacing import LEAST_SHARE, MARGIN, prompt_seconds
from sagellm_common.regression import Matrix, Vector
from sagellm_scheduler.perf_model.steps import NUM_FEATURES

MOST_SHARE = 0.8
LN_2 = 0.6931


@dataclass(slots=True)
class Loads:
    """What engines have to do before and beside a new request; shape [n] each, `coefficients` [n, 6].

    `kind` numbers the kinds of engines. `decoding`: sequences that decode now. `sequences`: all that do or will,
    those still to be prefilled included. `context`: tokens of all their contexts. `ends`: when the step under way
    ends, on the scheduler's clock. `backlog`: prefill tokens for the steps after it, those of `prompts` prompts.
    `comes`: prefill tokens a second that it gets. `budget`: tokens of a step. `prefill_share`: share of the time that
    goes into prefill, in `stalls` steps a second. `limit`: the time from token to token to which it keeps its steps, 0
    if it is free. `seats`: sequences that it may decode at once, 0 if it is not there for answers; `held`: tokens of
    their contexts.
    """

    coefficients: Matrix
    knee: Vector
    kind: NDArray[np.intp]
    decoding: Vector
    sequences: Vector
    context: Vector
    ends: Vector
    backlog: Vector
    prompts: Vector
    comes: Vector
    budget: Vector
    prefill_share: Vector
    stalls: Vector
    limit: Vector
    seats: Vector
    held: Vector

    @classmethod
    def zeros(cls, capacity: int) -> Self:
        """Room for so many engines."""
        empty = {field.name: np.zeros(capacity) for field in fields(cls)}
        return cls(
            **{**empty, "coefficients": np.zeros((capacity, NUM_FEATURES)), "kind": np.zeros(capacity, np.intp)}  # type: ignore[arg-type] # the two that are no vectors
        )

    def at(self, slots: NDArray[np.intp]) -> Self:
        """The loads of some engines."""
        return type(self)(*(getattr(self, name)[slots] for name in LOADS))

    def doubled(self) -> Self:
        """The same with room for twice as many."""
        columns = (getattr(self, name) for name in LOADS)
        return type(self)(*(np.concatenate([column, np.zeros_like(column)]) for column in columns))


LOADS = tuple(field.name for field in fields(Loads))


@dataclass(slots=True)
class PromptTimes:
    """Seconds of a prompt on each of n engines, shape [n] each.

    `first`: until its first token. `backlog`: until what was there before is prefilled. `own`: of computing that it
    takes from those that decode beside it. `alone`: until its first token if nothing else ran there.
    """

    first: Vector
    backlog: Vector
    own: Vector
    alone: Vector


MOST_STEPS = 4


def pass_time(loads: Loads, now: float) -> None:
    """Have the steps begun, in place, that engines will have begun by `now` if they compute as they are thought to.

    Reports come every tenth of a second; in between, a step takes what waited when it began, and no more.
    """
    decode, per_context = loads.coefficients[:, 2], loads.coefficients[:, 3]
    beside = loads.coefficients[:, 0] + decode * loads.decoding + per_context * loads.context
    room: Vector | None = None
    for _ in range(MOST_STEPS):
        begins = (loads.ends < now) & (loads.backlog > 0.0)
        if not np.count_nonzero(begins):
            break
        room = _room(loads, loads.decoding) if room is None else room
        chunk = np.where(begins, np.minimum(loads.backlog, room), 0.0)
        loads.ends += np.where(begins, beside + _prompt_s(loads, chunk, room), 0.0)
        loads.backlog -= chunk
    decodes = (loads.ends < now) & (loads.decoding > 0.0) & (beside > 0.0)
    steps = np.ceil((now - loads.ends) / np.maximum(beside, 1e-9))
    loads.ends = np.where(decodes, loads.ends + steps * beside, np.maximum(loads.ends, now))


def _room(loads: Loads, decoding: Vector) -> Vector:
    """Tokens of prompts in a step: what so many decoding sequences, [n] or [m, n], leave of its budget, and of the time
    they are promised."""
    room = np.asarray(np.maximum(1.0, loads.budget - decoding))
    paced = (loads.limit > 0.0) & (decoding > 0.0)
    if not np.count_nonzero(paced):
        return room
    base, prefill, decode, per_context, _, per_over = loads.coefficients.T
    seconds = prompt_seconds(loads.limit, base + decode * decoding + per_context * loads.context)
    below = np.maximum(0.0, loads.knee - decoding)
    above = np.maximum(0.0, seconds - prefill * below) / np.maximum(1e-9, prefill + per_over)
    tokens = np.minimum(seconds / np.maximum(1e-9, prefill), below + above)
    return np.where(paced, np.minimum(np.maximum(tokens, 1.0), room), room)


def _prompt_s(loads: Loads, chunk: Vector, room: Vector) -> Vector:
    """Seconds by which so many tokens of the backlog lengthen a step."""
    _, prefill, _, _, per_product, per_over = loads.coefficients.T
    over = np.maximum(0.0, chunk + loads.decoding - loads.knee)
    return np.asarray(chunk * (prefill + per_product * _context(loads, room)) + per_over * over)


def _context(loads: Loads, room: Vector) -> Vector:
    """Mean context of a token of the backlog."""
    ahead = loads.backlog / np.maximum(1.0, loads.prompts)
    return np.asarray(0.5 * (ahead + np.minimum(ahead, room)))


def prompt_times(loads: Loads, new: Vector, context: float, now: float) -> PromptTimes:
    """Predict for a prompt of `context` tokens, of which `new` [n], at least 1, are not in the engine's cache, at
    `now`; time must have passed until then.

    Prompts are prefilled in the order of arrival, as many tokens a step as the decoding sequences leave of it: those
    that decode now, and beside the prompt itself all that are before it.
    """
    base, prefill, decode, per_context, per_product, per_over = loads.coefficients.T
    tokens = loads.backlog + new
    before, then = _room(loads, np.array([loads.decoding, loads.sequences]))
    room = np.where(loads.limit > 0.0, tokens / (loads.backlog / before + new / then), before)
    steps = np.ceil(tokens / room)
    beside = base + decode * loads.decoding + per_context * loads.context
    wait = np.maximum(0.0, loads.ends - now)
    late = np.minimum(loads.comes * wait, steps * room - tokens)  # what comes until the step begins is in it too
    last = tokens - (steps - 1) * room + late
    over = (steps - 1) * np.maximum(0.0, room + loads.decoding - loads.knee)
    over = over + np.maximum(0.0, last + loads.decoding - loads.knee)
    products = loads.backlog * _context(loads, room)
    own = prefill * new + per_product * new * (context - 0.5 * (new - np.minimum(new, room)))
    seconds = steps * beside + own + prefill * (loads.backlog + late) + per_product * products + per_over * over
    own = own + per_over * over * (new / (tokens + late))
    return PromptTimes(
        first=wait + seconds,
        backlog=wait + seconds / tokens * loads.backlog,
        own=own,
        alone=own + base * np.ceil(new / loads.budget),
    )


def prefill_rate(loads: Loads) -> Vector:
    """Prefill tokens a second of full steps, beside the sequences that decode."""
    _, _, decode, per_context, _, _ = loads.coefficients.T
    answers_s = decode * loads.decoding + per_context * loads.context
    return _rate(loads, _room(loads, loads.decoding), loads.decoding, answers_s)


def idle_engines(loads: Loads) -> float:
    """Return as how many idle engines, of the quickest of their kinds, all prefill together beside what decodes."""
    return float(prefill_rate(loads).sum() / max(1e-9, _idle_rate(loads).max(initial=0.0)))


def prefix_s(loads: Loads, tokens: Vector) -> Vector:
    """Return the seconds [n] that each engine, if idle, would take for the first so many tokens [n] of a prompt."""
    return np.asarray(tokens / np.maximum(1e-9, _idle_rate(loads)) + 0.5 * loads.coefficients[:, 4] * tokens**2)


def _idle_rate(loads: Loads) -> Vector:
    nothing = np.zeros(len(loads.budget))
    return _rate(loads, loads.budget, nothing, nothing)


def _rate(loads: Loads, room: Vector, decoding: Vector, answers_s: Vector) -> Vector:
    base, prefill, _, _, _, per_over = loads.coefficients.T
    over = np.maximum(0.0, room + decoding - loads.knee)
    return np.asarray(room / np.maximum(1e-9, base + answers_s + prefill * room + per_over * over))


@dataclass(slots=True)
class TokenTimes:
    """Seconds from token to token on each of n engines, shape [n] each.

    `before`: mean as things are, `after`: with one more sequence; `step`: of that, a step without prompts. The rest are
    steps with prompts of others, `stalls` a second, which take `stall` longer. `bound_before` and `bound`: what steps
    that are kept to a limit take at most if it is tight; infinite where they are not.
    """

    before: Vector
    after: Vector
    step: Vector
    stalls: Vector
    stall: Vector
    bound_before: Vector
    bound: Vector


def token_times(loads: Loads, context: float, limit_s: float = np.inf) -> TokenTimes:
    """Predict for one more sequence of so many tokens, to which `limit_s` from token to token is promised."""
    base, _, decode, per_context, _, per_over = loads.coefficients.T
    over = np.maximum(0.0, loads.sequences - loads.knee)
    more = np.maximum(0.0, loads.sequences + 1 - loads.knee)
    step = base + decode * loads.sequences + per_context * loads.context
    left = 1.0 - np.minimum(loads.prefill_share, MOST_SHARE)
    before = step + per_over * over
    alone = step + decode + per_context * context + per_over * more
    stall = np.where(loads.stalls > 0.0, loads.prefill_share / np.maximum(loads.stalls, 1e-9), 0.0)
    kept = np.where(loads.limit > 0.0, loads.limit, np.inf)
    bound_before, bound = _bound(kept, before), _bound(np.minimum(kept, limit_s), alone)
    return TokenTimes(
        np.minimum(before / left, np.maximum(bound_before, MARGIN * kept)),
        np.minimum(alone / left, np.maximum(bound, MARGIN * np.minimum(kept, limit_s))),
        alone,
        loads.stalls,
        stall,
        bound_before,
        bound,
    )


def _bound(limit: Vector, step: Vector) -> Vector:
    """What steps with prompts take at most where they are kept to a limit that is hard to keep."""
    return np.where(np.isfinite(limit) & (limit > step), step / (1.0 - LEAST_SHARE), np.inf)


def usual_s(times: TokenTimes, answer: float) -> Vector:
    """Seconds from token to token [n] that half of such answers stay below: few of those that are short have a prompt
    come between. The median of a Poisson distribution lies up to ln 2 below its mean (Choi, 1994)."""
    usual = np.maximum(0.0, times.stalls * answer * times.after - LN_2)
    return np.asarray(times.step + np.minimum(times.after - times.step, times.stall * usual / max(1.0, answer)))


def few_enough(most: Vector, mean: Vector) -> Vector:
    """Probability [n] of at most so many events where a Poisson distribution has a mean: 0 below 0.

    By Wilson and Hilferty's normal approximation to the chi-squared distribution (1931); exact for none.
    """
    count = np.floor(most) + 1.0
    ninth = 1.0 / (9.0 * np.maximum(count, 1.0))
    distance = (np.cbrt(mean / np.maximum(count, 1.0)) - (1.0 - ninth)) / np.sqrt(ninth)
    likely = normal(-distance)
    return np.where(count < 1.0, 0.0, np.where(count == 1.0, np.exp(-mean), likely))


def normal(distance: Vector) -> Vector:
    """The normal distribution function, within 0.0002, its tails to within a factor of two up to four deviations; by
    Page's approximation (1977). Small probabilities of many others to be late add up: lighter or heavier tails would
    mislead."""
    distance = np.minimum(np.maximum(distance, -8.0), 8.0)
    return np.asarray(1.0 / (1.0 + np.exp(-(1.5976 + 0.07056 * distance**2) * distance)))
