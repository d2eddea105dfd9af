"""A queue of waiting requests in the order of a policy: push, remove and look at the head in O(log n)."""

import heapq
from collections.abc import Iterator

from sagellm_scheduler.core.requests import Request
from sagellm_scheduler.queueing.policy import QueuePolicy, Served

_Entry = tuple[tuple[float, ...], int, Request]


class RequestQueue:
    """Waiting requests of one model; the prompts of those that are not late have `tokens` together.

    A removed request stays in the heap until it comes up or until half of the heap is such entries; then the heap is
    rebuilt, so that removal costs O(1) amortised.
    """

    def __init__(self, policy: QueuePolicy) -> None:
        self._use(policy)
        self._waiting: dict[str, _Entry] = {}
        self._heap: list[_Entry] = []
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Request]:
        """All waiting requests, in no particular order."""
        return (request for _, _, request in self._waiting.values())

    def push(self, request: Request) -> None:
        """Add a request; another one with the same id must have been removed before."""
        entry = self._waiting[request.request_id] = (self._policy.key(request), request.seq, request)
        self.tokens += _tokens(request)
        heapq.heappush(self._heap, entry)

    def peek(self) -> Request | None:
        """Return the request that goes next, or None if the queue is empty."""
        while self._heap and not self._is_waiting(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def serve(self, request: Request) -> None:
        """Take out the request that goes next, and let the policy know."""
        if self._note_served is not None and self.peek() is request:
            self._note_served(request, self._heap[0][0])
        self.remove(request)

    def remove(self, request: Request) -> bool:
        """Take a request out; returns whether it was waiting here."""
        known = self._waiting.get(request.request_id)
        if known is None or known[2] is not request:
            return False
        del self._waiting[request.request_id]
        self.tokens -= _tokens(request)
        if len(self._heap) > 2 * len(self._waiting) + 16:
            self._heap = [entry for entry in self._heap if self._is_waiting(entry)]
            heapq.heapify(self._heap)
        return True

    def give_way(self, request: Request) -> None:
        """Order a waiting request anew, now that it is known to be late."""
        self.remove(request)
        request.is_late = True
        self.push(request)

    def reorder(self, policy: QueuePolicy) -> None:
        """Order all waiting requests by another policy; none is lost."""
        self._use(policy)
        self._heap = [(policy.key(request), request.seq, request) for request in self]
        self._waiting = {entry[2].request_id: entry for entry in self._heap}
        heapq.heapify(self._heap)

    def _use(self, policy: QueuePolicy) -> None:
        self._policy = policy
        self._note_served = policy.served if isinstance(policy, Served) else None

    def _is_waiting(self, entry: _Entry) -> bool:
        return self._waiting.get(entry[2].request_id) is entry


def _tokens(request: Request) -> int:
    return 0 if request.is_late else request.submit.prompt_tokens
