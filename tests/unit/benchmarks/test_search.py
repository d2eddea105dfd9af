"""The search of the highest load that is borne."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.search import FINE, highest
from sagellm_common.contracts.slo import NO_SLO
from sagellm_simulation.report import Summary, summarise
from sagellm_simulation.specs import H200_8B
from sagellm_simulation.trace import conversations
from sagellm_simulation.world import Scenario, simulate


@pytest.fixture(scope="module")
def summary() -> Summary:
    """Any."""
    return summarise(simulate(Scenario(engines=(H200_8B,)), conversations(4, 1, 1.0)), NO_SLO)


def fleet(summary: Summary, attains: Callable[[float], float], asked: list[float]) -> Callable[[float], Summary]:
    """One that attains so much at a load."""

    def run(rate: float) -> Summary:
        asked.append(rate)
        return replace(summary, attainment=attains(rate), goodput=rate * attains(rate))

    return run


@pytest.mark.parametrize("start", [0.5, 9.0, 60.0, 700.0])
def test_it_is_found_from_wherever_it_begins(summary: Summary, start: float) -> None:
    """Within 2 % below what is borne, in at most forty runs, none of them twice."""
    asked: list[float] = []
    rate, found = highest(fleet(summary, lambda load: 0.99 if load <= 61.0 else 0.7, asked), start)
    assert 61.0 / 1.021 / FINE <= rate <= 61.0 / FINE
    assert found.attainment >= 0.95
    assert len(set(asked)) == len(asked) <= 40


def test_few_runs_are_needed_where_it_begins_near(summary: Summary) -> None:
    """The grid is run again with what was found the last time."""
    asked: list[float] = []
    highest(fleet(summary, lambda load: 1.0 - 0.05 * (load / 61.0) ** 8, asked), 60.0)
    assert len(asked) <= 12


def test_a_dip_does_not_end_it(summary: Summary) -> None:
    """Loads from 20 to 23 are clearly missed, higher ones borne up to 50."""
    run = fleet(summary, lambda load: 0.96 if load <= 50.0 and not 20.0 <= load <= 23.0 else 0.90, [])
    rate, _ = highest(run, 19.0)
    assert 50.0 / 1.021 / FINE <= rate <= 50.0


@pytest.mark.parametrize("start", [23.0, 24.0, 25.0, 26.0])
def test_single_loads_that_miss_by_a_hair_make_no_difference(summary: Summary, start: float) -> None:
    """Attainment falls slowly through 95 % at 25/s, and every third load attains half a percent less."""

    def attains(load: float) -> float:
        return 0.95 + 0.02 * (25.0 - load) - (0.005 if round(load * 50) % 3 == 0 else 0.0)

    rate, found = highest(fleet(summary, attains, []), start)
    assert 25.0 / FINE**2 <= rate <= 25.0 * FINE
    assert 0.95 <= found.attainment < 0.97


def test_attainment_and_goodput_are_means_of_neighbours(summary: Summary) -> None:
    """The load itself may be a lucky one."""
    run = fleet(summary, lambda load: 0.99 if load <= 61.0 else 0.93, [])
    rate, found = highest(run, 60.0)
    near = [run(rate / FINE), run(rate), run(rate * FINE)]
    assert found.attainment == pytest.approx(sum(each.attainment for each in near) / 3)
    assert found.goodput == pytest.approx(sum(each.goodput for each in near) / 3)


def test_nothing_borne_is_an_error(summary: Summary) -> None:
    """It does not go on for ever."""
    with pytest.raises(RuntimeError, match="no load"):
        highest(fleet(summary, lambda load: 0.0, []), 1.0)
