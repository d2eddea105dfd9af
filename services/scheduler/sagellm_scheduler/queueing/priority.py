"""Urgent requests first, with a guard against starvation."""

from sagellm_scheduler.core.requests import Request

AGING_S = 10.0


class ByPriority:
    """A request of a less urgent class is treated as though it had arrived `aging_s` later for each class.

    So an urgent request overtakes whatever has waited less than `aging_s` per class between them, and nobody is
    overtaken by a request that arrived more than `aging_s` times the number of classes between them after it.
    The key never changes with time.
    """

    name = "priority"

    def __init__(self, aging_s: float = AGING_S) -> None:
        self.aging_s = aging_s

    def key(self, request: Request) -> tuple[float, ...]:
        return (request.arrival + self.aging_s * request.submit.priority,)
