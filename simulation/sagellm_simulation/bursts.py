"""How much any scheduler could get out of engines when requests come in bursts: the prompts of a trace, each to have
its first token in time, on all engines at once and with the future known."""

from collections.abc import Sequence

import numpy as np

from sagellm_scheduler.perf_model.capacity import Limits, Mix, first_token_s, prefills_per_s
from sagellm_simulation.bound import held_tokens, limits_of, new_tokens
from sagellm_simulation.specs import EngineSpec
from sagellm_simulation.trace import Trace

PRECISION = 1.002
NUM_RATES = 11


def burst_bound(engines: Sequence[EngineSpec], trace: Trace, ttft_s: float, attainment: float) -> float:
    """Return how many prompts a second could be prefilled in time at most, of a trace that is squeezed so far that at
    least `attainment` of them still are.

    Every prompt is computed by all engines together as fast as they can, their caches keep what is needed again
    soonest, and which prompts to give up is known beforehand. 0 if too many of them are too long for any engine.
    """
    limits = [limits_of(spec) for spec in engines]
    new = new_tokens(trace, held_tokens(engines))
    work = np.array([_seconds(limits, r.prompt_tokens, left) for r, left in zip(trace.requests, new, strict=True)])
    alone = np.array([min(first_token_s(limit, left) for limit in limits) for left in new])
    fits = alone <= ttft_s
    arrivals, work = np.array([r.at for r in trace.requests])[fits], work[fits]

    def in_time(rate: float) -> float:
        return (len(work) - least_late(arrivals * (trace.rate / rate), work, ttft_s)) / len(new)

    if len(work) < attainment * len(new):
        return 0.0
    low, high = 1e-3 * trace.rate, len(new) / float(work.sum()) * 2.0
    while high / low > PRECISION:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if in_time(middle) >= attainment else (low, middle)
    rates: list[float] = np.linspace(attainment * low, low, NUM_RATES).tolist()
    return max(rate * in_time(rate) for rate in rates)


def _seconds(limits: Sequence[Limits], prompt: float, new: float) -> float:
    mix = Mix(new, 1.0, prompt, new * (prompt - new / 2))
    return 1.0 / sum(prefills_per_s(limit, mix) for limit in limits)


def least_late(arrivals: np.ndarray, work: np.ndarray, within_s: float) -> int:
    """Return how many jobs at least are not done within a time of their arrival, on one machine that does one after the
    other; arrivals in order, all in seconds.

    Kise, Ibaraki and Mine (1978): in the order of the deadlines, and when one would be late, the job without which the
    rest ends earliest is given up.
    """
    kept: list[int] = []
    ends = 0.0
    late = 0
    for number, (arrival, seconds) in enumerate(zip(arrivals.tolist(), work.tolist(), strict=True)):
        if ends <= arrival:  # nothing is left to be done: what was before matters no longer
            kept = []
        kept.append(number)
        ends = max(ends, arrival) + seconds
        if ends > arrival + within_s:
            late += 1
            ends = _give_up(kept, arrivals, work)
    return late


def _give_up(kept: list[int], arrivals: np.ndarray, work: np.ndarray) -> float:
    """Take out the job without which the rest ends earliest, and return when it does then."""
    begins, seconds = arrivals[kept], work[kept]
    rest = np.cumsum(seconds[::-1])[::-1] - seconds  # after each
    latest = np.maximum.accumulate((begins + rest + seconds)[::-1])[::-1]
    before = np.cumsum(seconds) - seconds
    ends = before + np.maximum.accumulate(begins - before) + seconds
    without = np.maximum(np.append(-np.inf, ends[:-1]) + rest, np.append(latest[1:], -np.inf))
    chosen = int(without.argmin())
    del kept[chosen]
    return float(without[chosen])
