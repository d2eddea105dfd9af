"""The highest load that a fleet bears: a search that one bad load does not end.

Arrivals squeezed by another factor meet each other differently, so that attainment is not quite monotonic: a load may
miss by a hair where a higher one does not. The search strides as long as loads are borne, then climbs in steps and
gives up after three in succession.
"""

from collections.abc import Callable

from sagellm_simulation.report import Summary

ATTAINMENT = 0.95
DOWN, UP, FINE = 1.6, 1.08, 1.02
STRIDE = UP**4
GIVES_UP_AFTER = 3
LEAST = 1e-3


def highest(run: Callable[[float], Summary], start: float) -> tuple[float, Summary]:
    """Return the highest load, requests/s within 2 %, at which 95 % meet the SLO, and what it is like there.

    Raises:
        RuntimeError: no load is borne.
    """
    rate, found = start, run(start)
    while found.attainment < ATTAINMENT:
        rate /= DOWN
        if rate < LEAST:
            raise RuntimeError("no load is borne")
        found = run(rate)
    best, missed = _strides(run, (rate, found)), 0
    rate = best[0]
    while missed < GIVES_UP_AFTER:
        rate *= UP
        found = run(rate)
        best, missed = ((rate, found), 0) if found.attainment >= ATTAINMENT else (best, missed + 1)
    return _refined(run, best)


def _strides(run: Callable[[float], Summary], best: tuple[float, Summary]) -> tuple[float, Summary]:
    """Go up in strides from a load that is borne to the last before one that is not."""
    while (found := run(best[0] * STRIDE)).attainment >= ATTAINMENT:
        best = best[0] * STRIDE, found
    return best


def _refined(run: Callable[[float], Summary], best: tuple[float, Summary]) -> tuple[float, Summary]:
    """Halve the last step, up to which the load is borne."""
    high = best[0] * UP
    while high / best[0] > FINE:
        rate = (best[0] * high) ** 0.5
        found = run(rate)
        if found.attainment >= ATTAINMENT:
            best = (rate, found)
        else:
            high = rate
    return best
