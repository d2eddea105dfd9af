"""Following a plan: what is asked of a scaler, in which order, and what waits."""

from collections.abc import Mapping

import pytest

from sagellm_common.contracts.engines import EngineRole
from sagellm_common.contracts.plan import EngineGroup, FleetPlan
from sagellm_common.errors import Unavailable
from sagellm_scheduler.planner.scaler import follow


class Fleet:
    """A scaler that notes what it is asked for."""

    def __init__(self, **counts: int) -> None:
        self.counts = counts
        self.asked: list[tuple[str, int]] = []
        self.full: set[str] = set()

    async def count(self, model: str, role: EngineRole) -> int:
        return self.counts.get(role, 0)

    async def scale(self, model: str, role: EngineRole, count: int, num_open: Mapping[str, int]) -> None:
        if role in self.full:
            raise Unavailable("no room")
        self.asked.append((role, count))
        self.counts[role] = count


def plan(ready: dict[EngineRole, int], **counts: int) -> FleetPlan:
    """A plan for so many engines of each role, while so many are ready."""
    groups = [EngineGroup(kind="k", role=role, count=count) for role, count in counts.items()]  # type: ignore[arg-type]
    return FleetPlan(model="m", time_s=0.0, groups=groups, ready=ready)


async def test_nothing_is_asked_for_when_all_is_as_wanted() -> None:
    """A plan that is fulfilled changes nothing, however often it is followed."""
    fleet = Fleet(hybrid=2)
    assert await follow(plan({"hybrid": 2}, hybrid=2), fleet, {}) == {}
    assert fleet.asked == []


async def test_more_is_asked_for_at_once_and_less_when_enough_are_ready() -> None:
    """Growth waits for nobody; engines are given up only when as many as are wanted stay."""
    fleet = Fleet(hybrid=1)
    assert await follow(plan({}, hybrid=3), fleet, {}) == {"hybrid": (1, 3)}
    assert await follow(plan({"hybrid": 1}, hybrid=2), fleet, {}) == {}
    assert await follow(plan({"hybrid": 2}, hybrid=2), fleet, {}) == {"hybrid": (3, 2)}
    assert fleet.asked == [("hybrid", 3), ("hybrid", 2)]


async def test_a_change_of_roles_leaves_no_gap() -> None:
    """Engines of the new roles are asked for first; the old ones go once each new role is whole, not before."""
    fleet = Fleet(hybrid=3)
    apart = {"prefill": 1, "decode": 2}
    await follow(plan({"hybrid": 3}, **apart), fleet, {})
    assert fleet.asked == [("decode", 2), ("prefill", 1)]
    await follow(plan({"hybrid": 3, "prefill": 1, "decode": 1}, **apart), fleet, {})
    assert fleet.counts["hybrid"] == 3
    await follow(plan({"hybrid": 3, "prefill": 1, "decode": 2}, **apart), fleet, {})
    assert fleet.counts["hybrid"] == 0


async def test_groups_of_several_kinds_count_together() -> None:
    """A scaler knows roles: what is wanted of a role is the sum over its kinds."""
    groups = [EngineGroup(kind=kind, count=count) for kind, count in (("a", 1), ("b", 2))]
    fleet = Fleet(hybrid=1)
    await follow(FleetPlan(model="m", time_s=0.0, groups=groups), fleet, {})
    assert fleet.asked == [("hybrid", 3)]


async def test_nothing_is_given_up_when_more_cannot_be_had() -> None:
    """A scaler that cannot start engines ends the attempt before any engine goes."""
    fleet = Fleet(hybrid=2)
    fleet.full = {"prefill"}
    with pytest.raises(Unavailable):
        await follow(plan({"hybrid": 2, "prefill": 1}, prefill=1), fleet, {})
    assert fleet.asked == []
