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
    other from `begins` on, in this order.

    Moore (1968), "An n job, one machine sequencing algorithm for minimizing the number of late jobs": when one would be
    late, the longest of it and those before it is given up; here only if that helps, since jobs that keep their place
    or have all the time may come between. Else it is given up itself.
    """
    kept: list[tuple[float, int]] = []
    given: list[int] = []
    for number, (seconds, latest, is_fixed) in enumerate(jobs):
        longest = -kept[0][0] if kept else 0.0
        if begins > latest and (longest <= seconds or begins - longest / engines > latest):
            given.append(number)
            continue
        if begins > latest:
            begins -= longest / engines
            given.append(heapq.heappop(kept)[1])
        begins += seconds / engines
        if not is_fixed:
            heapq.heappush(kept, (-seconds, number))
    return given
