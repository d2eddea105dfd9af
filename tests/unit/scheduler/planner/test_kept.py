"""What a planner takes up again after it has been away."""

import pytest

from sagellm_common.contracts.plan import FleetPlan
from sagellm_scheduler.planner.kept import caught_up

DAYS = [float(hour % 24) for hour in range(72)]


def plan(hours: list[float]) -> FleetPlan:
    """A plan whose last counted hour ends 1000 hours after the epoch."""
    return FleetPlan(model="m", time_s=0.0, groups=[], hours=hours, last_hour=1000)


@pytest.mark.parametrize("hour", [1000, 999])
def test_without_a_gap_nothing_is_added(hour: int) -> None:
    """A restart within the hour, or a clock that went back, leaves the hours as they are."""
    assert caught_up(plan(DAYS), hour) == plan(DAYS)


def test_hours_that_nobody_counted_are_as_a_day_before() -> None:
    """After a gap of thirty hours the season is still in step: the last hour has the place in its day that it had."""
    found = caught_up(plan(DAYS), 1030)
    assert found.hours == [float(hour % 24) for hour in range(102)]
    assert found.last_hour == 1030


def test_a_short_history_goes_on_as_it_ended() -> None:
    """With less than a day, the last hour is all that is known."""
    assert caught_up(plan([1.0, 2.0]), 1002).hours == [1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("hours", [DAYS, []])
def test_after_a_gap_longer_than_what_was_counted_it_starts_anew(hours: list[float]) -> None:
    """More would be made up than was seen."""
    assert caught_up(plan(hours), 1100).hours == []
