"""The planner's core: what comes in, and the plans that come out."""

import math

import pytest

from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.plan import FleetPlan
from sagellm_common.contracts.reports import EngineReport, Gauges
from sagellm_common.contracts.slo import Slo
from sagellm_scheduler.planner.core import FIRST_MARGIN, Planner, PlannerConfig
from sagellm_scheduler.planner.demand import HOUR_S
from sagellm_scheduler.planner.margin import Margin
from sagellm_scheduler.planner.seasons import next_hours

SLO = Slo(ttft_ms=2000.0, itl_ms=50.0)
STEPS = ((0.011, 1, 0, 1, 100, 0), (0.030, 20, 0, 20, 2000, 0), (0.110, 1000, 1000, 0, 0, 500_000))


def registration(engine_id: str, *, kind: str = "k", price: float = 1.0) -> EngineRegistration:
    """An engine that takes 10 ms a step, 1 ms a sequence, 0.1 ms a prompt token."""
    return EngineRegistration(
        engine_id=engine_id,
        incarnation=f"{engine_id}-1",
        models=("m",),
        backend="mock",
        kind=kind,
        max_model_len=8192,
        page_size=16,
        num_pages=8192,
        max_num_seqs=64,
        max_batch_tokens=2048,
        price_per_hour=price,
        benchmark=STEPS * 8,
    )


def report(engine_id: str, state: str = "ready") -> EngineReport:
    """A heartbeat."""
    return EngineReport(engine_id, f"{engine_id}-1", 1, Gauges(1, 1, 0, 0, 0, 0, 0, 0.0), [1, 1], 0, state=state)


def ended(ttft_ms: float, itl_ms: float = 20.0, phase: str = "finished", completion: int = 100) -> RequestEvent:
    """The end of a request of 500 tokens in and, usually, 100 out."""
    return RequestEvent(
        request_id="r",
        phase=phase,  # type: ignore[arg-type] # a phase
        ttft_ms=ttft_ms,
        itl_mean_ms=itl_ms,
        prompt_tokens=500,
        completion_tokens=completion,
    )


def serve(planner: Planner, per_s: float, begin: float, seconds: float, *, ttft_ms: float = 100.0) -> None:
    """Evenly spaced requests that end at once."""
    for number in range(int(per_s * seconds)):
        now = begin + number / per_s
        planner.accepted(500, now)
        planner.ended(ended(ttft_ms), now)


def made(config: PlannerConfig | None = None, former: FleetPlan | None = None) -> Planner:
    """A planner that knows one engine."""
    planner = Planner(config or PlannerConfig(slo=SLO), "m", former)
    planner.registered(registration("e1"))
    planner.reported(report("e1"), 0.0)
    return planner


def plan(planner: Planner, now: float) -> FleetPlan:
    """The plan, which there is."""
    found = planner.plan(now)
    assert found is not None
    return found


def test_without_engines_there_is_no_plan() -> None:
    """Nothing is known that could be multiplied."""
    assert Planner(PlannerConfig(), "m").plan(0.0) is None


def test_more_load_needs_more_engines() -> None:
    """Twice the requests, about twice the engines; each plan says what it was made of."""
    planner = made()
    serve(planner, 4.0, 0.0, 600.0)
    small = plan(planner, 600.0)
    serve(planner, 24.0, 600.0, 600.0)
    large = plan(planner, 1200.0)
    assert large.count >= 4 * small.count
    assert large.requests_per_s == pytest.approx(24.0, rel=0.05)
    assert large.engines_now == 1
    assert large.price_per_hour == large.count
    assert large.groups[0].kind == "k"
    assert "requests/s" in large.reason


@pytest.mark.parametrize(("hold_s", "held", "small"), [(120.0, 2, 4), (300.0, 5, 6)])
def test_engines_are_given_up_only_when_they_have_not_been_needed_for_a_while(
    hold_s: float, held: int, small: int
) -> None:
    """The load falls to a sixth: the fleet is held for so many minutes, and is small soon after."""
    planner = made(PlannerConfig(slo=SLO, hold_s=hold_s))
    serve(planner, 24.0, 0.0, 600.0)
    large = plan(planner, 600.0).count
    counts = []
    for minute in range(25):
        begin = 600.0 + 60.0 * minute
        serve(planner, 4.0, begin, 60.0)
        counts.append(plan(planner, begin + 60.0).count)
    assert set(counts[:held]) == {large}
    assert counts[small] < large
    assert counts[-1] <= large / 3


def test_time_in_which_nothing_was_heard_is_not_quiet() -> None:
    """The bus is away for five minutes, in which as much comes as before: as many engines are wanted after it, and the
    hour counts what was heard in it."""
    planner = made()
    serve(planner, 24.0, 0.0, 3000.0)
    before = plan(planner, 3000.0)
    planner.deaf(3300.0)
    serve(planner, 24.0, 3300.0, 180.0)
    after = plan(planner, 3480.0)
    assert (after.count, after.burst) == (before.count, pytest.approx(before.burst, rel=0.1))
    assert after.requests_per_s == pytest.approx(24.0, rel=0.02)
    planner.deaf(HOUR_S + 300.0)
    assert planner.hours == [pytest.approx(24.0, rel=0.02)]


def test_what_is_expected_within_the_hour_is_ordered_ahead() -> None:
    """Late in a quiet hour before a busy one more engines are wanted than the load of now needs."""
    quiet, busy = made(), made()
    for planner in (quiet, busy):
        serve(planner, 12.0, 0.0, HOUR_S + 2400.0)
    quiet.forecasted([12.0, 12.0, 12.0])
    busy.forecasted([12.0, 48.0, 48.0])
    now = HOUR_S + 2400.0
    assert plan(busy, now).expected_per_s > 1.3 * plan(quiet, now).expected_per_s
    assert plan(busy, now).count > plan(quiet, now).count


def test_a_forecast_is_scaled_by_what_really_comes() -> None:
    """Twice as much comes as on the days before: twice as much is expected next."""
    planner = made()
    serve(planner, 8.0, 0.0, HOUR_S + 1800.0)
    planner.forecasted([4.0, 4.0, 4.0])
    found = plan(planner, HOUR_S + 1800.0)
    assert found.expected_per_s == pytest.approx(8.0, rel=0.35)


def test_missed_slos_make_the_fleet_larger() -> None:
    """The same load, but every fourth first token too late: a larger margin, more engines."""
    good, bad = made(), made()
    for minute in range(20):
        begin = 60.0 * minute
        serve(good, 24.0, begin, 60.0)
        serve(bad, 24.0, begin, 60.0, ttft_ms=100.0 if minute % 4 else 5000.0)
        plan(good, begin + 60.0)
        plan(bad, begin + 60.0)
    assert plan(bad, 1200.0).margin > 1.2 * plan(good, 1200.0).margin
    assert plan(bad, 1200.0).count > plan(good, 1200.0).count
    assert plan(good, 1200.0).attainment == 1.0


def test_requests_that_fail_count_as_missed_and_cancelled_ones_do_not() -> None:
    """What a client takes back says nothing about engines."""
    planner = made()
    for second in range(100):
        planner.ended(ended(100.0, phase="failed" if second % 2 else "cancelled"), float(second))
    assert plan(planner, 100.0).attainment == 0.0


@pytest.mark.parametrize("wanted", [(3, 64), (1, 2)])
def test_the_fleet_keeps_within_its_limits(wanted: tuple[int, int]) -> None:
    """Never fewer than the least, never more than the most."""
    least, most = wanted
    planner = made(PlannerConfig(slo=SLO, least=least, most=most))
    assert plan(planner, 10.0).count == least
    serve(planner, 40.0, 10.0, 600.0)
    assert least <= plan(planner, 610.0).count <= most


def test_engines_that_drain_or_are_gone_are_not_there() -> None:
    """Two engines, one draining, then one gone; what is known of the kind stays."""
    planner = made()
    planner.registered(registration("e2"))
    assert plan(planner, 1.0).engines_now == 2
    planner.reported(report("e2", "draining"), 2.0)
    assert plan(planner, 3.0).engines_now == 1
    planner.gone("e1")
    planner.gone("e2")
    planner.gone("e2")
    assert plan(planner, 4.0).engines_now == 0


def test_the_cheaper_of_two_kinds_is_advised() -> None:
    """Equal engines at half the price."""
    planner = made()
    planner.registered(registration("e2", kind="cheap", price=0.5))
    serve(planner, 10.0, 0.0, 600.0)
    assert {group.kind for group in plan(planner, 600.0).groups} == {"cheap"}


def test_a_kind_that_is_gone_is_advised_no_longer() -> None:
    """What runs no more could perhaps not be had again; the last kind that ran stays, or nothing could be planned."""
    planner = made()
    planner.registered(registration("e2", kind="cheap", price=0.5))
    planner.gone("e2")
    assert {group.kind for group in plan(planner, 1.0).groups} == {"k"}
    planner.gone("e1")
    assert {group.kind for group in plan(planner, 2.0).groups} == {"k"}


def test_the_price_is_that_of_the_fleet_that_is_asked_for() -> None:
    """A load for more engines than are allowed costs what the allowed ones cost."""
    planner = made(PlannerConfig(slo=SLO, most=2))
    serve(planner, 40.0, 0.0, 600.0)
    found = plan(planner, 600.0)
    assert (found.count, found.price_per_hour) == (2, 2.0)


def test_the_mean_request_outlives_the_planner() -> None:
    """Long answers need more engines, from the first plan of a planner that comes after."""
    former = made()
    for second in range(600):
        former.accepted(500, float(second))
        former.ended(ended(100.0, completion=2000), float(second))
    kept = plan(former, 600.0)
    assert kept.request is not None
    assert kept.request.output == pytest.approx(2000.0)
    again = plan(made(former=kept), 601.0)
    assert again.request == kept.request
    assert plan(made(), 601.0).request is None


def test_a_planner_goes_on_from_its_last_plan() -> None:
    """Margin and hours come from the plan that was kept."""
    former = made()
    serve(former, 4.0, 0.0, 2 * HOUR_S)
    kept = plan(former, 2 * HOUR_S)
    assert len(kept.hours) == 2
    again = plan(made(former=kept.model_copy(update={"margin": 1.7})), 2 * HOUR_S + 1.0)
    assert again.hours == kept.hours
    assert again.margin == 1.7
    assert plan(made(), 1.0).margin == FIRST_MARGIN


def test_the_margin_settles_where_the_goal_is_met() -> None:
    """A world in which the misses fall as the margin grows: 1 % of them at a margin of 1.5."""
    margin = Margin(0.99, 1.0)
    for minute in range(2000):
        missed = 0.01 * math.exp(-8.0 * (margin.value - 1.5))
        for number in range(200):
            margin.observe(60.0 * minute, is_met=number >= 200 * missed)
        margin.adjust(60.0 * minute)
    assert margin.value == pytest.approx(1.5, abs=0.1)


def test_a_season_of_a_day_is_forecast() -> None:
    """A week of days that rise and fall: the next hours within a tenth; a day and a half tell too little."""
    days = [10.0 + 6.0 * math.cos(2 * math.pi * (hour % 24 - 15) / 24) + (hour * 37 % 11) / 20 for hour in range(180)]
    found = next_hours(days[:175])
    assert found is not None
    assert found == pytest.approx(days[175:178], rel=0.1)
    assert next_hours(days[:40]) is None


def test_hours_of_silence_can_be_forecast_too() -> None:
    """Nights without any request leave no room for a multiplicative season."""
    days = [max(0.0, 5.0 * math.sin(2 * math.pi * hour / 24)) for hour in range(24 * 5)]
    found = next_hours(days)
    assert found is not None
    assert found == pytest.approx(days[:3], abs=0.5)
