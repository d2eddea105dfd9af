"""Everybody gets the same share of the tokens."""

import heapq
from collections import defaultdict
from dataclasses import dataclass, field

from sagellm_scheduler.core.requests import Request

User = tuple[str, str]


class Fair:
    """Weighted fair queueing (Demers, Keshav and Shenker, 1989) over the users of all tenants, by tokens.

    A request starts where its user's last one ended, in virtual time, but not before now; who starts first goes first.
    So a user who floods the queue waits behind himself, and nobody else does. Virtual time goes by the tokens that one
    user gets: with each request served by its tokens over the number of users who have something to get. So it passes
    any start in the end, however many new users come.
    """

    name = "fair"

    def __init__(self) -> None:
        self._clocks: defaultdict[str, _Clock] = defaultdict(_Clock)

    def key(self, request: Request) -> tuple[float, ...]:
        submit = request.submit
        return (self._clocks[submit.model].start((submit.tenant, submit.user or ""), _cost(request)),)

    def served(self, request: Request, key: tuple[float, ...]) -> None:
        self._clocks[request.submit.model].served(_cost(request))


@dataclass(slots=True)
class _Clock:
    """Virtual time of one model: where each user's last request ends, in the order of the ends."""

    now: float = 0.0
    ends: dict[User, float] = field(default_factory=dict)
    order: list[tuple[float, User]] = field(default_factory=list)

    def start(self, user: User, cost: float) -> float:
        start = max(self.now, self.ends.get(user, 0.0))
        self.ends[user] = start + cost
        heapq.heappush(self.order, (start + cost, user))
        return start

    def served(self, cost: float) -> None:
        self.now += cost / max(1, len(self.ends))
        while self.order and self.order[0][0] <= self.now:
            end, user = heapq.heappop(self.order)
            if self.ends.get(user) == end:
                del self.ends[user]


def _cost(request: Request) -> float:
    return float(max(1, request.submit.prompt_tokens + request.submit.max_tokens))
