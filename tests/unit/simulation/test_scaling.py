"""The planner in virtual time, and the days it is tried on."""

import pytest

from sagellm_common.contracts.slo import Slo
from sagellm_scheduler.planner.core import PlannerConfig
from sagellm_simulation.day import Curve, at, compose
from sagellm_simulation.scaling import simulate_scaled
from sagellm_simulation.specs import L4_8B
from sagellm_simulation.trace import conversations
from sagellm_simulation.world import Scenario, World

SLO = Slo(ttft_ms=5000.0, itl_ms=100.0)


def test_a_day_follows_its_curve() -> None:
    """The rate of each hour is the curve's, every request has an id of its own, and a seed gives the same day."""
    parts = [(conversations(400, 1, 1.0), Curve(mean=0.5, peak=3.0, spread=0.0))] * 2
    day = compose(parts, 7, hours=6)
    assert day == compose(parts, 7, hours=6)
    assert len({request.request_id for request in day.requests}) == len(day.requests)
    levels = parts[0][1].levels(7, 6)
    for hour in range(6):
        count = sum(3600.0 * hour <= request.at < 3600.0 * (hour + 1) for request in day.requests)
        assert count / 3600.0 == pytest.approx(2 * at(levels, 3600.0 * (hour + 0.5)), rel=0.15)


def test_a_fleet_grows_with_the_load_and_every_engine_is_paid_for() -> None:
    """Twenty minutes of three times what one engine bears: more are ordered, arrive after their start-up, and count
    from their order; nothing is dropped."""
    scenario = Scenario(engines=(L4_8B,), queue="slo_aware", pd="off", slo=SLO, tick_s=0.2, heartbeat_s=1.0)
    trace = conversations(2400, 1, 2.0)
    world = World(scenario, trace)
    scaled = simulate_scaled(scenario, world, PlannerConfig(slo=SLO, lead_s=60.0), start_s=60.0)
    assert all(item.phase == "finished" for item in scaled.result.ended)
    assert len(world.engines) > 1
    assert max(plan.engines_now for _, plan in scaled.plans) > 1
    hours = trace.requests[-1].at / 3600.0
    assert hours < scaled.engine_hours <= len(world.engines) * hours
