"""Virtual time: what happens when."""

import heapq
from collections.abc import Callable
from typing import Any


class Kernel:
    """Calls things at their times, in seconds; equal times in the order in which they were set."""

    def __init__(self, start: float = 0.0) -> None:
        self.now = start
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, time: float, call: Callable[..., None], *args: Any) -> None:
        """Have `call(*args)` made at `time`, or now if that has passed."""
        self._count += 1
        heapq.heappush(self._heap, (time if time > self.now else self.now, self._count, call, args))

    def after(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        """Have `call(*args)` made in so many seconds."""
        self.at(self.now + seconds, call, *args)

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until `until`, or until `done`, asked after each call, says so, or nothing is left to do."""
        heap = self._heap
        while heap and heap[0][0] <= until and not done():
            self.now, _, call, args = heapq.heappop(heap)
            call(*args)

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        """Have `call` made every so many seconds from now on, for ever."""

        def again() -> None:
            call()
            self.after(seconds, again)

        self.after(seconds, again)
