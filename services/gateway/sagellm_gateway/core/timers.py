"""One timer per request, in a heap; entries that no longer hold are skipped when they come up."""

import heapq
from collections.abc import Iterator

from sagellm_gateway.core.request import FOREVER, Phase, Request

# A timer that is due and cannot act yet (the bus is down) comes up again after this many seconds.
MIN_WAIT_S = 0.02
SMALL_HEAP = 1024


class Timers:
    """Wakes each request at its earliest time; moving a timer costs one push, amortised.

    Whenever the heap has doubled, the entries that no longer hold are dropped, so that no request is kept until the
    deadline that it did not need.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._pushed = 0
        self._limit = SMALL_HEAP

    def __len__(self) -> int:
        """Return the number of entries, those that no longer hold included."""
        return len(self._heap)

    def set(self, request: Request, due: float) -> None:
        """Wake `request` at `due` instead of whenever it was to be woken."""
        if due == request.due:
            return
        request.due = due
        if due != FOREVER:
            self._pushed += 1
            heapq.heappush(self._heap, (due, self._pushed, request))
            if len(self._heap) > self._limit:
                self._heap = [entry for entry in self._heap if _holds(entry[0], entry[2])]
                heapq.heapify(self._heap)
                self._limit = max(SMALL_HEAP, 2 * len(self._heap))

    def expired(self, now: float) -> Iterator[Request]:
        """Give every request whose time has come; each must be set again by the caller, or is closed."""
        while self._heap and self._heap[0][0] <= now:
            due, _, request = heapq.heappop(self._heap)
            if _holds(due, request):
                request.due = FOREVER
                yield request


def _holds(due: float, request: Request) -> bool:
    return request.phase is not Phase.CLOSED and request.due == due
