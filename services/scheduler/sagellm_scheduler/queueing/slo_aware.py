"""The request that must start soonest goes first."""

import math

from sagellm_scheduler.core.requests import Request

UNSTATED_S = 10.0
GUARD_S = 30.0


class SloAware:
    """Least slack first: how long a request can still wait if its first token, or its last, is to come in time.

    Both the time that a request may take and the time that it needs are known when it is queued, so that the order of
    two requests never changes, but for one that is to be late: because it turns out so when its turn comes, or because
    most of the others are in time without it. It may wait for `guard_s`, one that states nothing for `unstated_s`, one
    whose first token has come already for nothing. Nobody's slack counts for more than `guard_s`: whoever came that
    much earlier goes first, whatever is asked of the others.
    """

    name = "slo_aware"
    minds_time = True

    def __init__(self, unstated_s: float = UNSTATED_S, guard_s: float = GUARD_S) -> None:
        self.unstated_s, self.guard_s = unstated_s, guard_s

    def key(self, request: Request) -> tuple[float, ...]:
        return (request.arrival + slack_s(request, self.unstated_s, self.guard_s),)

    def latest(self, request: Request) -> float:
        return request.arrival + max(0.0, min(_limits(request), default=math.inf))


def slack_s(request: Request, unstated_s: float, guard_s: float) -> float:
    """Return how long after its arrival a request may be placed, from 0 to `guard_s`.

    One that has given way has lost what was to come first, but not its other SLO.
    """
    if request.has_begun:
        return 0.0
    limits = sorted(_limits(request))
    if request.gave_way:
        limits = [limit for limit in limits[1:] if limit > 0.0] or [guard_s]
    return min(guard_s, max(0.0, limits[0] if limits else unstated_s))


def _limits(request: Request) -> list[float]:
    """How long after its arrival a request may be placed so that each of its SLOs can be met."""
    slo, all_s = request.slo, 0.0 if request.prospect is None else request.prospect.total_s
    limits = []
    if slo.ttft_ms is not None:
        limits.append(slo.ttft_ms / 1e3 - request.alone_s)
    if slo.deadline_ms is not None:
        limits.append(slo.deadline_ms / 1e3 - all_s)
    return limits
