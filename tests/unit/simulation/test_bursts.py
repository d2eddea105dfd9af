"""The bound that knows bursts: no choice of who is given up does better, and no simulated fleet does."""

import itertools
import random

import numpy as np
import pytest

from sagellm_common.contracts.slo import Slo
from sagellm_simulation.bursts import burst_bound, least_late
from sagellm_simulation.report import summarise
from sagellm_simulation.specs import H200_8B
from sagellm_simulation.trace import Trace, TraceRequest
from sagellm_simulation.world import Scenario, simulate


def _late_of_best_choice(arrivals: list[float], work: list[float], within_s: float) -> int:
    """Try every set of jobs."""
    best = len(work)
    for chosen in itertools.product((False, True), repeat=len(work)):
        ends, is_in_time = 0.0, True
        for arrival, seconds, is_kept in zip(arrivals, work, chosen, strict=True):
            if is_kept:
                ends = max(ends, arrival) + seconds
                is_in_time = is_in_time and ends <= arrival + within_s
        if is_in_time:
            best = min(best, chosen.count(False))
    return best


@pytest.mark.parametrize("seed", range(60))
def test_nobody_is_given_up_who_could_be_in_time(seed: int) -> None:
    """Eight jobs in bursts, against all 256 choices."""
    chance = random.Random(seed)
    arrivals = sorted(chance.choice((0.0, 0.5, 1.0, 3.0)) + chance.random() * 0.3 for _ in range(8))
    work = [chance.choice((0.1, 0.3, 0.7)) * (1 + chance.random()) for _ in range(8)]
    found = least_late(np.array(arrivals), np.array(work), 1.0)
    assert found == _late_of_best_choice(arrivals, work, 1.0)


def in_bursts(count: int, size: int) -> Trace:
    """Prompts of 2,000 tokens, so many at once every second."""
    return Trace(
        "bursts",
        [
            TraceRequest(request_id=f"r{number}", at=float(number // size), prompt_tokens=2000, output_tokens=2)
            for number in range(count)
        ],
    )


def test_bursts_bear_less_than_single_requests() -> None:
    """And a prompt that no engine could have in time makes it nothing."""
    slo_s = 0.5
    assert burst_bound([H200_8B], in_bursts(400, 40), slo_s, 0.95) < 0.5 * burst_bound(
        [H200_8B], in_bursts(400, 1), slo_s, 0.95
    )
    assert burst_bound([H200_8B], in_bursts(400, 1), 0.001, 0.95) == 0.0


@pytest.mark.parametrize("size", [1, 8, 16])
def test_no_load_above_it_is_borne(size: int) -> None:
    """A fleet under bursts has fewer in time than the bound, wherever at least 95 % are."""
    trace, slo = in_bursts(800, size), Slo(ttft_ms=500.0)
    limit = burst_bound([H200_8B] * 2, trace, 0.5, 0.95)
    scenario = Scenario(engines=(H200_8B, H200_8B), router="predictive", queue="slo_aware", slo=slo)
    loads = [summarise(simulate(scenario, trace.at_rate(share * limit)), slo) for share in (0.5, 0.8, 1.0, 1.1)]
    assert max((load.goodput for load in loads if load.attainment >= 0.95), default=0.0) <= limit
    assert loads[-1].attainment < 0.95
