"""Times at which a waiting request is looked at again; entries of requests that are gone are dropped when due."""

import heapq
from enum import Enum

from sagellm_scheduler.core.requests import Request, State

SMALL_HEAP = 1024


class Limit(Enum):
    """What has run out."""

    QUEUE_TIME = "the longest time in the queue"
    DEADLINE = "the request's own deadline"
    NO_ENGINE = "the longest time without any engine ready"


class Timers:
    """A heap of limits on waiting requests; each time it has doubled, those of requests that wait no more go."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Limit, Request]] = []
        self._count = 0
        self._limit = SMALL_HEAP

    def __len__(self) -> int:
        """Return the number of limits, those of requests that wait no more included."""
        return len(self._heap)

    def set(self, at: float, limit: Limit, request: Request) -> None:
        """Have `request` looked at `at`, if it still waits then."""
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, limit, request))
        if len(self._heap) > self._limit:
            self._heap = [entry for entry in self._heap if _waits(entry[3])]
            heapq.heapify(self._heap)
            self._limit = max(SMALL_HEAP, 2 * len(self._heap))

    def due(self, now: float) -> list[tuple[Limit, Request]]:
        """Return, and forget, the limits reached by requests that still wait."""
        reached = []
        while self._heap and self._heap[0][0] <= now:
            _, _, limit, request = heapq.heappop(self._heap)
            if _waits(request):
                reached.append((limit, request))
        return reached

    def clear(self) -> None:
        self._heap.clear()


def _waits(request: Request) -> bool:
    return request.state in (State.QUEUED, State.PARKED)
