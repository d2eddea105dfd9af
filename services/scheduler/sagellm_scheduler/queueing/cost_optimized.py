"""Cheap requests first."""

from sagellm_scheduler.core.requests import Request

AGING_S = 30.0


class CostOptimized:
    """A request is treated as though it had arrived later in proportion to what it costs, `aging_s` at most.

    Shortest first keeps the mean time low, and so the engine time that waits; cost is in the unit of the prices of the
    engines, `typical` of it counts half of `aging_s`. A request whose `cost_budget` cannot be met is refused at once
    (`core.admission`).
    """

    name = "cost_optimized"

    def __init__(self, typical: float = 1e-3, aging_s: float = AGING_S) -> None:
        self.typical, self.aging_s = typical, aging_s

    def key(self, request: Request) -> tuple[float, ...]:
        return (request.arrival + delay_s(request, self.typical, self.aging_s),)


def delay_s(request: Request, typical: float, aging_s: float) -> float:
    """Return the handicap of a request, from 0 to `aging_s`."""
    cost = request.prospect.cost if request.prospect is not None else 0.0
    return aging_s * cost / (cost + typical)
