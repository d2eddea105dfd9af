"""Who gives way where not all that wait can be in time."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm_scheduler.queueing.surplus import Job, surplus

JOBS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), max_size=8)


def in_time(jobs: list[Job], engines: float) -> bool:
    """Whether all begin in time, one after the other."""
    begins = 0.0
    for seconds, latest, _ in jobs:
        if begins > latest:
            return False
        begins += seconds / engines
    return True


@given(JOBS, st.sampled_from([1.0, 2.0]))
@settings(max_examples=300, deadline=None)
def test_nobody_gives_way_in_vain(times: list[tuple[int, int]], engines: float) -> None:
    """Those that stay are in time, and they are as many as of any choice, by trying all."""
    jobs = [Job(float(seconds), float(latest)) for seconds, latest in sorted(times, key=lambda job: job[1])]
    given_up = set(surplus(jobs, 0.0, engines))
    kept = [job for number, job in enumerate(jobs) if number not in given_up]
    assert in_time(kept, engines)
    choices = (way for size in range(len(jobs) + 1) for way in itertools.combinations(jobs, size))
    assert len(kept) == max(len(way) for way in choices if in_time(list(way), engines))


def test_the_longest_gives_way() -> None:
    """One long job gives way for three short ones, though its turn comes first; what keeps its place does not."""
    jobs = [Job(8.0, 1.0), Job(1.0, 2.0), Job(1.0, 3.0), Job(1.0, 4.0)]
    assert surplus(jobs, 0.0, 1.0) == [0]
    assert surplus([Job(8.0, math.inf, is_fixed=True), *jobs[1:]], 0.0, 1.0) == [1, 2, 3]
    assert surplus(jobs, 0.0, 8.0) == []


@pytest.mark.parametrize(
    ("jobs", "begins", "given"),
    [
        ([Job(1, 1), Job(20, math.inf, is_fixed=True), Job(0.1, 2)], 0.0, [2]),
        ([Job(5, math.inf), Job(0.1, 0.1)], 0.2, [1]),
        ([Job(1, math.inf)] * 10 + [Job(0.1, 3)], 0.0, [10]),
        ([Job(8, math.inf)] + [Job(1, math.inf)] * 2 + [Job(0.1, 3)], 0.0, [0]),
    ],
)
def test_the_longest_gives_way_only_if_that_helps(jobs: list[Job], begins: float, given: list[int]) -> None:
    """Where a job is late whatever one other does, it gives way itself: what keeps its place, what has all the time."""
    assert surplus(jobs, begins, 1.0) == given
