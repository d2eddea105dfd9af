"""The highest load that a fleet bears: loads are judged together with their neighbours.

Arrivals squeezed by another factor meet each other differently, so that attainment is not quite monotonic: a load may
miss by a hair where one 2 % higher does not. Three loads that lie 2 % apart are therefore judged by their mean. Where
even that dips, the search tries twice more beyond.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from sagellm_simulation.report import Summary

ATTAINMENT = 0.95
CLEARLY_MISSED = 0.92
"""So few are in time that neighbours are not asked."""
FINE = 1.02
NEIGHBOURS = (0, -1, 1)
"""Loads that are judged together, in steps of `FINE` from the one in the middle."""
CLIMB = 4
GIVES_UP_AFTER = 3
LEAST = 1e-3


def highest(run: Callable[[float], Summary], start: float) -> tuple[float, Summary]:
    """Return the highest load, requests/s within 2 %, at which 95 % meet the SLO, and what it is like there.

    Attainment and goodput are means of the neighbours; times are those of the middle one.

    Raises:
        RuntimeError: no load is borne.
    """

    @cache
    def at(number: int) -> Summary:
        return run(start * FINE**number)

    def around(number: int) -> list[Summary]:
        return [at(number + step) for step in NEIGHBOURS]

    def is_borne(number: int) -> bool:
        if at(number).attainment < CLEARLY_MISSED:
            return False
        return statistics.fmean(found.attainment for found in around(number)) >= ATTAINMENT

    found = _refined(is_borne, *_bracket(is_borne, _first_borne(is_borne, start)))
    attainment, goodput = (
        statistics.fmean(getattr(summary, name) for summary in around(found)) for name in ("attainment", "goodput")
    )
    return start * FINE**found, replace(at(found), attainment=attainment, goodput=goodput)


def _first_borne(is_borne: Callable[[int], bool], start: float) -> int:
    """Go down, further each time, to a load that is borne."""
    number, step = 0, CLIMB
    while not is_borne(number):
        number, step = number - step, 2 * step
        if start * FINE**number < LEAST:
            raise RuntimeError("no load is borne")
    return number


def _bracket(is_borne: Callable[[int], bool], borne: int) -> tuple[int, int]:
    """Go up, further each time, to the last load that is borne; return it and the next that was found not to be."""
    ahead, step, missed = borne, CLIMB, list[int]()
    while len(missed) < GIVES_UP_AFTER:
        ahead += step
        if is_borne(ahead):
            borne, step, missed = ahead, 2 * step, []
        else:
            step = CLIMB
            missed.append(ahead)
    return borne, missed[0]


def _refined(is_borne: Callable[[int], bool], borne: int, missed: int) -> int:
    """Halve what lies between until two neighbours remain; return the one that is borne."""
    while missed - borne > 1:
        middle = (borne + missed) // 2
        borne, missed = (middle, missed) if is_borne(middle) else (borne, middle)
    return borne
