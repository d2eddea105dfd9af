"""A queue of waiting requests in the order of a policy: push, remove and look at the head in O(log n)."""

import heapq
from collections.abc import Iterator

from sagellm_scheduler.core.requests import Request
from sagellm_scheduler.queueing.policy import QueuePolicy, Served

_Entry = tuple[tuple[float, ...], int, Request]


class RequestQueue:
    """Waiting requests of one model, whose prompts have `tokens` together.

    A removed request stays in the heap until it comes up or until half of the heap is such entries; then the heap is
    rebuilt, so that removal costs O(1) amortised.
    """

    def __init__(self, policy: QueuePolicy) -> None:
        self._use(policy)
        self._waiting: dict[str, Request] = {}
        self._heap: list[_Entry] = []
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Request]:
        """All waiting requests, in no particular order."""
        return iter(self._waiting.values())

    def push(self, request: Request) -> None:
        """Add a request; another one with the same id must have been removed before."""
        self._waiting[request.request_id] = request
        self.tokens += request.submit.prompt_tokens
        heapq.heappush(self._heap, (self._policy.key(request), request.seq, request))

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
        if self._waiting.get(request.request_id) is not request:
            return False
        del self._waiting[request.request_id]
        self.tokens -= request.submit.prompt_tokens
        if len(self._heap) > 2 * len(self._waiting) + 16:
            self._heap = [entry for entry in self._heap if self._is_waiting(entry)]
            heapq.heapify(self._heap)
        return True

    def reorder(self, policy: QueuePolicy) -> None:
        """Order all waiting requests by another policy; none is lost."""
        self._use(policy)
        self._heap = [(policy.key(request), request.seq, request) for request in self._waiting.values()]
        heapq.heapify(self._heap)

    def _use(self, policy: QueuePolicy) -> None:
        self._policy = policy
        self._note_served = policy.served if isinstance(policy, Served) else None

    def _is_waiting(self, entry: _Entry) -> bool:
        return self._waiting.get(entry[2].request_id) is entry[2]
