"""Another order with another load."""

import math

from sagellm_scheduler.core.requests import Request
from sagellm_scheduler.queueing.fair import Fair
from sagellm_scheduler.queueing.fifo import Fifo
from sagellm_scheduler.queueing.policy import QueuePolicy, Served, Timely
from sagellm_scheduler.queueing.slo_aware import SloAware

BUSY_S, OVERLOADED_S = 0.5, 10.0
KEEP_S = 5.0


class Adaptive:
    """In order of arrival while the queue is short, by slack while waiting costs SLOs, by tenant when it lasts long.

    Short is a queue of less than `busy_s`, long one of more than `overloaded_s` seconds, by the rate at which requests
    have left it. An order is kept for five seconds at least: a change costs O(n log n).
    """

    name = "adaptive"

    def __init__(self, busy_s: float = BUSY_S, overloaded_s: float = OVERLOADED_S) -> None:
        self.busy_s, self.overloaded_s = busy_s, overloaded_s
        self._current: QueuePolicy = Fifo()
        self._changed_at = float("-inf")
        self.reason = "fifo, for nothing has waited yet"

    def key(self, request: Request) -> tuple[float, ...]:
        return self._current.key(request)

    @property
    def minds_time(self) -> bool:
        return isinstance(self._current, Timely)

    def latest(self, request: Request) -> float:
        return self._current.latest(request) if isinstance(self._current, Timely) else math.inf

    def served(self, request: Request, key: tuple[float, ...]) -> None:
        if isinstance(self._current, Served):
            self._current.served(request, key)

    def review(self, num_waiting: int, wait_s: float, now: float) -> bool:
        wanted = Fifo if wait_s < self.busy_s else SloAware if wait_s < self.overloaded_s else Fair
        if isinstance(self._current, wanted) or now - self._changed_at < KEEP_S:
            return False
        self._current, self._changed_at = wanted(), now
        self.reason = f"{self._current.name}, for {num_waiting} requests waited, about {wait_s:.1f} s of work"
        return True
