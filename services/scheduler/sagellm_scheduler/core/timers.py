"""Times at which a waiting request is looked at again; entries of requests that are gone are dropped when due."""

import heapq
from enum import Enum

from sagellm_scheduler.core.requests import Request, State


class Limit(Enum):
    """What has run out."""

    QUEUE_TIME = "the longest time in the queue"
    DEADLINE = "the request's own deadline"
    NO_ENGINE = "the longest time without any engine ready"


class Timers:
    """A heap of limits on waiting requests."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Limit, Request]] = []
        self._count = 0

    def set(self, at: float, limit: Limit, request: Request) -> None:
        """Have `request` looked at `at`, if it still waits then."""
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, limit, request))

    def due(self, now: float) -> list[tuple[Limit, Request]]:
        """Return, and forget, the limits reached by requests that still wait."""
        reached = []
        while self._heap and self._heap[0][0] <= now:
            _, _, limit, request = heapq.heappop(self._heap)
            if request.state in (State.QUEUED, State.PARKED):
                reached.append((limit, request))
        return reached

    def clear(self) -> None:
        self._heap.clear()
