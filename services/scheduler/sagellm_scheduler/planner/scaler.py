"""What brings a fleet to the size that a plan wants: one small interface, and the order in which it is used."""

from collections.abc import Mapping
from typing import Protocol, get_args

from sagellm_common.contracts.engines import EngineRole
from sagellm_common.contracts.plan import FleetPlan

ROLES: tuple[EngineRole, ...] = get_args(EngineRole)


class Scaler(Protocol):
    """Starts and ends engines of a model. An engine that is ended finishes what runs on it first."""

    async def count(self, model: str, role: EngineRole) -> int:
        """Return how many engines have been asked for; raises Unavailable if that cannot be found out."""

    async def scale(self, model: str, role: EngineRole, count: int, num_open: Mapping[str, int]) -> None:
        """Ask for so many engines; `num_open` are the requests of each engine, so that those with few are ended.

        Raises Unavailable if it cannot be done now, NotFound if there is nothing that could be scaled, and
        PermissionDenied if we may not.
        """


async def follow(plan: FleetPlan, scaler: Scaler, num_open: Mapping[str, int]) -> dict[EngineRole, tuple[int, int]]:
    """Do what a plan says; returns by role how many engines there were and how many are asked for now.

    More first. Fewer only once as many as are wanted are ready in each role, so that a change of roles leaves no gap.
    """
    wanted = plan.counts()
    now = {role: await scaler.count(plan.model, role) for role in ROLES}
    is_whole = all(plan.ready.get(role, 0) >= count for role, count in wanted.items())
    changed: dict[EngineRole, tuple[int, int]] = {}
    for role in sorted(ROLES, key=lambda role: now[role] - wanted[role]):
        if wanted[role] > now[role] or (wanted[role] < now[role] and is_whole):
            await scaler.scale(plan.model, role, wanted[role], num_open)
            changed[role] = (now[role], wanted[role])
    return changed
