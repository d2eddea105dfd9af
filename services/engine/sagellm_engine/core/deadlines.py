"""Which open requests have run out of time."""

from heapq import heappop, heappush

from sagellm_engine.core.types import RequestKey


class Deadlines:
    """A heap of (deadline in seconds, key). Keys of requests that have ended since are returned too."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, RequestKey]] = []

    def add(self, deadline: float, key: RequestKey) -> None:
        """Watch a request."""
        heappush(self._heap, (deadline, key))

    def pop_expired(self, now: float) -> list[RequestKey]:
        """Remove and return the keys whose deadline has come."""
        expired = []
        while self._heap and self._heap[0][0] <= now:
            expired.append(heappop(self._heap)[1])
        return expired
