"""Several orders in one, each with its weight."""

import math

from sagellm_scheduler.core.requests import Request
from sagellm_scheduler.queueing import cost_optimized, slo_aware
from sagellm_scheduler.queueing.priority import AGING_S


class Hybrid:
    """Arrival, and behind it in seconds: the weighted sum of slack, priority class and cost.

    Each part is bounded, so a request is overtaken by none that came later than the sum of the bounds.
    """

    name = "hybrid"
    minds_time = True

    def __init__(self, slo: float = 1.0, priority: float = 1.0, cost: float = 0.5) -> None:
        self.slo, self.priority, self.cost = slo, priority, cost

    def key(self, request: Request) -> tuple[float, ...]:
        slack_s = slo_aware.slack_s(request, slo_aware.UNSTATED_S, slo_aware.GUARD_S)
        cost_s = cost_optimized.delay_s(request, 1e-3, cost_optimized.AGING_S)
        class_s = AGING_S * request.submit.priority
        return (request.arrival + self.slo * slack_s + self.priority * class_s + self.cost * cost_s,)

    def latest(self, request: Request) -> float:
        """Open: a long request may be more urgent than all that it makes late."""
        return math.inf
