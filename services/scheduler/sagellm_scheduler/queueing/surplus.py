"""Who gives way where not all that wait can be in time."""

import heapq
from collections.abc import Iterable
from typing import NamedTuple


class Job(NamedTuple):
    """What an idle engine has to do for a request, s, and when it must begin; `is_fixed`: it keeps its place."""

    seconds: float
    latest: float
    is_fixed: bool = False


def surplus(jobs: Iterable[Job], begins: float, engines: float) -> list[int]:
    """Return the numbers of the jobs without which the most others begin in time, if so many engines do one after the
    other from `begins` on.

    Moore (1968), "An n job, one machine sequencing algorithm for minimizing the number of late jobs": in the order of
    the times, and when one would be late, the longest of it and those before it is given up.
    """
    kept: list[tuple[float, int]] = []
    given: list[int] = []
    for number, (seconds, latest, is_fixed) in enumerate(jobs):
        is_late = begins > latest
        begins += seconds / engines
        if not is_fixed:
            heapq.heappush(kept, (-seconds, number))
            if is_late:
                longest, last = heapq.heappop(kept)
                begins += longest / engines
                given.append(last)
    return given
