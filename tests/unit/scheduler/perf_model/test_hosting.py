"""What answers take from prompts: their rows, and, where they are not needed, what a step costs anyway."""

import math

import numpy as np
import pytest

from sagellm_common.contracts.slo import Slo
from sagellm_scheduler.core.columns import Columns, Role
from sagellm_scheduler.core.demand import Demand
from sagellm_scheduler.core.pairs import Engines, best_pair
from sagellm_scheduler.perf_model.forecast import Loads, normal
from sagellm_scheduler.perf_model.hosting import taken_s
from sagellm_scheduler.perf_model.model import PerformanceModel, Work
from sagellm_scheduler.perf_model.transfers import TransferTimes
from support.scheduling import submit

LIMIT_S = 0.020
ROW_S = 6e-5 + 1000 * 4e-8 + 2e-5
BASE_S = np.array([0.004, 0.004, 0.008])
PER_S = np.full(3, 0.016)


@pytest.fixture
def loads() -> Loads:
    """Two engines alike, and one whose steps cost twice as much whatever they compute."""
    loads = Loads.zeros(3)
    loads.coefficients[:, 0], loads.coefficients[:, 2] = BASE_S, 6e-5
    loads.coefficients[:, 3], loads.coefficients[:, 5] = 4e-8, 2e-5
    loads.seats[:], loads.held[:] = 100.0, 1e6
    loads.knee[:], loads.budget[:] = 100.0, 8192.0
    return loads


def test_answers_without_a_promise_take_their_rows(loads: Loads) -> None:
    """Steps are as long as there are prompts then, and what they cost anyway is little of them."""
    assert taken_s(loads, 1000.0, 200.0, PER_S, math.inf) == pytest.approx(200 * ROW_S)


def test_without_engines_nothing_is_taken() -> None:
    """A model may have lost all of them."""
    assert not len(taken_s(Loads.zeros(0), 1000.0, 200.0, np.zeros(0), LIMIT_S))


def test_an_engine_that_is_not_needed_pays_its_steps_for_one_answer(loads: Loads) -> None:
    """A hundred answers fit on the cheaper two: the dear one's short steps would be for this answer alone."""
    loads.sequences[:] = (100.0, 0.0, 0.0)
    shares = np.array([0.0, 0.0, 0.008 / (0.85 * LIMIT_S)])
    assert taken_s(loads, 1000.0, 200.0, PER_S, LIMIT_S) == pytest.approx(200 * (ROW_S + PER_S * shares))


@pytest.mark.parametrize("bound", ["seats", "pages", "time"])
def test_all_engines_are_needed_for_more_than_the_cheap_ones_hold(loads: Loads, bound: str) -> None:
    """Be it sequences, pages, or the time that is promised, that leaves no more room: 182 answers need the third."""
    loads.sequences[:] = (80.0, 90.0, 12.0)
    if bound == "pages":
        loads.seats[:], loads.held[:] = 1e6, 100_000.0
    elif bound == "time":
        loads.seats[:] = 1e6
        loads.coefficients[:, 2] += 0.013 / 100 - ROW_S  # 100 rows in the 13 ms that 85 % of the promise leave
    rows = loads.coefficients[:, 2] + 1000 * 4e-8 + 2e-5
    assert taken_s(loads, 1000.0, 200.0, PER_S, LIMIT_S) == pytest.approx(200 * rows)


def test_engines_that_only_prefill_are_not_counted_on(loads: Loads) -> None:
    """The dear engine is needed if the cheap ones are not there for answers, which would cost them their steps."""
    loads.seats[:2] = 0.0
    loads.sequences[:] = (0.0, 0.0, 5.0)
    taken = taken_s(loads, 1000.0, 200.0, PER_S, LIMIT_S) / 200
    assert taken == pytest.approx(ROW_S + PER_S * np.array([0.004, 0.004, 0.0]) / (0.85 * LIMIT_S))


def test_what_differs_by_less_than_the_learning_is_alike(loads: Loads) -> None:
    """Coefficients of engines of one kind differ by a few per cent, which must not move all answers to one."""
    loads.coefficients[:, 0] = (0.00400, 0.00404, 0.00396)
    assert taken_s(loads, 1000.0, 200.0, PER_S, LIMIT_S) == pytest.approx(200 * ROW_S)


def test_an_engines_time_is_worth_as_much_as_there_are_who_wait_for_it() -> None:
    """Nobody who waits: nothing. Three who wait in the queue and one on an engine, at two engines: twice what the
    prompt takes, and twice a part of what the answer does."""
    model, loads = PerformanceModel(), Loads.zeros(2)
    loads.coefficients[:, :3], loads.knee[:], loads.budget[:] = (0.010, 1e-4, 1e-4), 1e9, 2048.0
    loads.kind[:], loads.seats[:], loads.held[:] = model.number("k"), 64.0, 1e6
    work = Work(1000.0, 100.0)
    nobody = model.forecast(loads, work, np.zeros(2))
    assert not nobody.before_s.any()
    assert not nobody.beside_s.any()
    loads.prompts[0] = 1.0
    some = model.forecast(loads, Work(1000.0, 100.0, waiting=3), np.zeros(2))
    assert some.before_s == pytest.approx(2 * some.own_s)
    assert some.beside_s == pytest.approx(2 * 0.3 * 100 * 1e-4)
    assert some.added_s - nobody.added_s == pytest.approx(some.before_s + some.beside_s)


def test_the_normal_distribution_has_its_own_tails() -> None:
    """To 0.0002 everywhere, and to a factor of two at four deviations, where a logistic one is thirty times as much."""
    distances = np.linspace(-6.0, 6.0, 121)
    exact = np.array([0.5 * math.erfc(-distance / math.sqrt(2.0)) for distance in distances])
    assert normal(distances) == pytest.approx(exact, abs=2e-4)
    assert normal(np.array([-4.0]))[0] == pytest.approx(3.17e-5, rel=0.5)


@pytest.mark.parametrize(("waiting", "taker"), [(0, 1), (400, 0)])
def test_answers_leave_the_engine_that_could_be_rid_of_them_to_those_who_wait(waiting: int, taker: int) -> None:
    """Of an engine full of answers and an idle one whose steps cost more, the idle one decodes faster. Where many wait
    it is left to prompts, which an answer there would cut into short steps."""
    model, columns = PerformanceModel(), Columns()
    slots = np.arange(3)
    loads = columns.loads.at(slots)
    loads.coefficients[:, 0], loads.coefficients[:, 2], loads.coefficients[:, 5] = (0.004, 0.008, 0.004), 6e-5, 2e-5
    loads.kind[:], loads.knee[:], loads.budget[:] = model.number("k"), 100.0, 8192.0
    loads.seats[:], loads.held[:] = (256.0, 256.0, 0.0), 1e6
    loads.sequences[0] = loads.decoding[0] = 100.0
    loads.limit[0], loads.prefill_share[0], loads.stalls[0] = 0.030, 0.3, 20.0
    columns.handoff[:3], columns.role[2] = 1, Role.PREFILL
    demand = Demand(
        submit("r", prompt_tokens=1000, slo={"itl_ms": 30.0}), 1200, 200.0, 0.0, Slo(itl_ms=30.0), 0.0, waiting=waiting
    )
    forecast = model.forecast(loads, demand.work, np.zeros(3), is_even=False)
    only_giver = np.array([False, False, True])
    engines = Engines(slots, only_giver, ~only_giver, np.zeros(3), np.zeros(3))
    pair = best_pair(demand, engines, columns, forecast, TransferTimes(), predicts=True)
    assert pair is not None
    assert (pair.prefill, pair.decode) == (2, taker)
