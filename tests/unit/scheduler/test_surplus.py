"""Who gives way where not all that wait can be in time."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm_common.contracts.slo import Slo
from sagellm_scheduler.queueing.surplus import Job, surplus
from support.scheduling import Driver

JOBS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), max_size=8)
STEPS = tuple((0.005 + 0.0001 * p + 0.0004 * d, p + d, p, d, 20 * d, 0) for p in (0, 16, 256, 1024) for d in (1, 8, 32))


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


def test_nobody_gives_way_while_no_engine_is_ready() -> None:
    """Two requests wait while their engine is busy, then draining, then back: they go in their order, and neither has
    let the other go first."""
    driver = Driver.leading(queue="slo_aware", default_slo=Slo(ttft_ms=60_000), admission_slack=None)
    driver.engine("e1", kind="k", benchmark=STEPS, max_num_seqs=1, num_pages=10_000, max_model_len=50_000)
    driver.submit("before")
    driver.submit("long", prompt_tokens=8000)
    driver.submit("short", prompt_tokens=300)
    driver.report("e1", state="draining", running=1, last_assignment=1)
    driver.end("before")
    driver.report("e1", state="draining", last_assignment=1)
    assert driver.order == ["before"]
    driver.report("e1", last_assignment=1)
    assert driver.order == ["before", "long"]
    assert not any(publish.record.decisions[-1].gave_way for publish in driver.records if publish.record.decisions)


@pytest.mark.parametrize(("queue", "first"), [("slo_aware", "s0"), ("fifo", "long")])
def test_a_long_prompt_gives_way_to_those_that_it_would_make_late(queue: str, first: str) -> None:
    """While an engine is busy a long prompt and six short ones come that cannot all be in time: with `slo_aware` the
    short ones go first and are in time, and the long one goes last; nobody is lost."""
    driver = Driver.leading(queue=queue, default_slo=Slo(ttft_ms=900), admission_slack=None)
    driver.engine("e1", kind="k", benchmark=STEPS, max_num_seqs=1, num_pages=10_000, max_model_len=50_000)
    driver.submit("before")
    driver.submit("long", prompt_tokens=8000)
    for number in range(6):
        driver.submit(f"s{number}", prompt_tokens=300)
    while len(driver.order) < 8:
        driver.now += 0.05
        driver.end(driver.order[-1])
        driver.report("e1", running=0, last_assignment=driver.assignments[-1].number)
    assert driver.order[1] == first
    assert sorted(driver.order) == sorted(["before", "long", *(f"s{number}" for number in range(6))])
    assert (driver.order[-1] == "long") is (queue == "slo_aware")
    placed = {publish.record.request_id: publish.record.decisions[-1] for publish in driver.records}
    assert [name for name, decision in placed.items() if decision.gave_way] == ["long"] * (queue == "slo_aware")
