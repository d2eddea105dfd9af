"""The seam of the queue policies, and their names."""

from typing import Protocol

from sagellm_scheduler.core.requests import Request
from sagellm_scheduler.plugins import Registry


class QueuePolicy(Protocol):
    """Orders waiting requests; one policy object serves the queues of all models.

    `key` must not block and must not change the request. It is asked once when a request is queued, and again for all
    when the policy is changed; the queue keeps the answer, so that every operation stays O(log n).
    """

    name: str

    def key(self, request: Request) -> tuple[float, ...]:
        """Return what the request is ordered by: the smallest goes first, equal ones in order of arrival."""
        ...


QUEUE_POLICIES: Registry[QueuePolicy] = Registry(
    "queue policy",
    {
        "fifo": "sagellm_scheduler.queueing.fifo:Fifo",
        "priority": "sagellm_scheduler.queueing.priority:ByPriority",
    },
)
