"""The seam of the queue policies, and their names."""

from typing import Protocol, runtime_checkable

from sagellm_scheduler.core.requests import Request
from sagellm_scheduler.plugins import Registry

Key = tuple[float, ...]


class QueuePolicy(Protocol):
    """Orders waiting requests; one policy object serves the queues of all models.

    `key` must not block and must not change the request. It is asked once when a request is queued, and again for all
    when the policy is changed; the queue keeps the answer. A policy may also be `Served`, `Timely` or `Reviewed`, and
    say in an attribute `reason` why it orders as it does now.
    """

    name: str

    def key(self, request: Request) -> Key:
        """Return what the request is ordered by: the smallest goes first, equal ones in order of arrival."""
        ...


@runtime_checkable
class Served(Protocol):
    """A policy that wants to know who was served."""

    def served(self, request: Request, key: Key) -> None:
        """Note that a request with this key has left the queue for an engine."""
        ...


@runtime_checkable
class Timely(Protocol):
    """A policy that minds the time, as long as `minds_time`: who is late when its turn comes, and those without which
    most others are in time, give way; `key` is asked again then, with `gave_way` set."""

    @property
    def minds_time(self) -> bool:
        """Whether anybody gives way now."""
        ...

    def latest(self, request: Request) -> float:
        """Return when a request must be placed at the latest, on the scheduler's clock; infinite if that is open, so
        that nobody before it gives way for its sake."""
        ...


@runtime_checkable
class Reviewed(Protocol):
    """A policy that looks at the load now and then."""

    def review(self, num_waiting: int, wait_s: float, now: float) -> bool:
        """Return whether the keys of all have changed; a queue as long as this takes `wait_s` to be worked off."""
        ...


QUEUE_POLICIES: Registry[QueuePolicy] = Registry(
    "queue policy",
    {
        "fifo": "sagellm_scheduler.queueing.fifo:Fifo",
        "priority": "sagellm_scheduler.queueing.priority:ByPriority",
        "slo_aware": "sagellm_scheduler.queueing.slo_aware:SloAware",
        "cost_optimized": "sagellm_scheduler.queueing.cost_optimized:CostOptimized",
        "fair": "sagellm_scheduler.queueing.fair:Fair",
        "adaptive": "sagellm_scheduler.queueing.adaptive:Adaptive",
        "hybrid": "sagellm_scheduler.queueing.hybrid:Hybrid",
    },
)
