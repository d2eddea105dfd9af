"""The bucket `plans`: read once, written with each plan, and written again when the server has lost it."""

from sagellm_common.bus import Bucket, Bus
from sagellm_common.bus.restoring import after_reconnect
from sagellm_common.contracts.plan import FleetPlan
from sagellm_common.errors import Unavailable
from sagellm_common.subjects import encode_token
from sagellm_scheduler.planner.demand import usual_next


def caught_up(plan: FleetPlan, hour: int) -> FleetPlan:
    """Return a plan whose hours go up to `hour`, in hours since the epoch, so that the season of a day stays in step.

    Those in which nobody has counted are taken to be as a day before; after more of them than were counted, none is.
    """
    missing = hour - plan.last_hour
    if missing <= 0:
        return plan
    hours = list(plan.hours) if missing <= len(plan.hours) else []
    for _ in range(missing if hours else 0):
        hours.append(usual_next(hours))
    return plan.model_copy(update={"hours": hours, "last_hour": hour})


class KeptPlans:
    """The newest plan of each model, by its name, in memory and in the bucket. One planner writes it."""

    def __init__(self, bus: Bus, bucket: Bucket, newest: dict[str, FleetPlan]) -> None:
        self._bus, self._bucket, self.newest = bus, bucket, newest
        after_reconnect(bus, bucket.name, self.restore)

    @classmethod
    async def open(cls, bus: Bus) -> "KeptPlans":
        """Read what was planned before; raises Unavailable."""
        bucket = await _open(bus)
        return cls(bus, bucket, {plan.model: plan for plan in (await bucket.read_all(FleetPlan)).values()})

    async def put(self, plan: FleetPlan) -> None:
        """Keep a plan; raises Unavailable, after which the next `put` or `restore` writes this one too."""
        self.newest[plan.model] = plan
        try:
            await self._write(plan)
        except Unavailable:
            await self.restore()

    async def restore(self) -> None:
        """Open the bucket again, which may have gone with the server's storage, and write all plans.

        Raises Unavailable.
        """
        self._bucket = await _open(self._bus)
        for plan in list(self.newest.values()):
            await self._write(plan)

    async def _write(self, plan: FleetPlan) -> None:
        await self._bucket.put(encode_token(plan.model), plan)


async def _open(bus: Bus) -> Bucket:
    return await bus.bucket(bus.settings.subjects.bucket("plans"))
