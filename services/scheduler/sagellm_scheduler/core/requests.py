"""Open requests as the scheduler knows them, and the memory of those that have ended."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from sagellm_common.contracts.decisions import Decision
from sagellm_common.contracts.scheduling import Assignment, Submit
from sagellm_common.contracts.slo import NO_SLO, Slo
from sagellm_common.errors import SageError


class State(Enum):
    """Where an open request stands."""

    QUEUED = "waits in the queue of its model"
    PARKED = "waits for an engine to be ready at all; it holds up nobody"
    ASSIGNED = "has been given to an engine"
    CLOSED = "is over, or a newer epoch has taken its place"


@dataclass(frozen=True, slots=True)
class Expected:
    """What was predicted when a request was placed, `at` on the scheduler's clock, on an engine of `kind`; seconds.

    `first_s`: from then to the first token, `per_s` from token to token; the `raw` ones are what the step times alone
    said. `alone_s`: to the first token on the same engine, had it been idle. `cached`: prompt tokens in its cache.

    If another engine prefills, that is the one of the first token and the cache, and `first_s` includes `transfer_s` of
    handing over among engines of the class `handoff`; `per_kind` is the kind of the one that decodes.
    """

    at: float
    kind: str
    first_s: float
    per_s: float
    raw_first_s: float
    raw_per_s: float
    raw_fleet_s: float
    alone_s: float
    cached: int = 0
    per_kind: str = ""
    transfer_s: float = 0.0
    raw_transfer_s: float = 0.0
    handoff: int = 0


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a request that joins the queue has to expect; seconds.

    `wait_s`: in the queue. `ttft_s`: from the gateway's acceptance to the first token. `alone_s` and `total_s`: from
    its placement to the first and to the last token, on the quickest engine, if nothing else ran there. `cost`: of
    the cheapest engine's time, in the currency of its price. `itl_s`: from token to token where that is least, and
    `alone_itl_s` if nothing else ran there. `answer`: tokens. `missed`: how many SLOs are expected to be missed for it,
    its own and those of others, where that is least.
    """

    wait_s: float
    ttft_s: float
    alone_s: float
    total_s: float
    cost: float
    itl_s: float = 0.0
    alone_itl_s: float = 0.0
    answer: float = 1.0
    missed: float = 0.0


@dataclass(slots=True, eq=False)
class Request:
    """One open request in its newest epoch. Times are seconds on the scheduler's clock.

    `arrival` is when its gateway accepted it; `seq` breaks ties in the order of submission. `is_partial` says that
    an earlier leader may have kept decisions about it in the stream. `parked_since` is when it was found that no
    engine that could run it is ready; None while one is. `slo` is what holds for it, `prospect` what was
    to be expected when it was queued, `expected` what its last placement promised. `gave_way` says that it has
    let others go first: its first token was expected too late when its turn came, or most are in time without it.
    """

    submit: Submit
    arrival: float
    queued_at: float
    seq: int
    position: int = 0
    parked_since: float | None = None
    state: State = State.QUEUED
    assignment: Assignment | None = None
    decisions: list[Decision] = field(default_factory=list)
    is_partial: bool = False
    slo: Slo = NO_SLO
    prospect: Prospect | None = None
    expected: Expected | None = None
    gave_way: bool = False

    @property
    def request_id(self) -> str:
        return self.submit.request_id

    @property
    def epoch(self) -> int:
        return self.submit.epoch

    @property
    def alone_s(self) -> float:
        """What its prompt takes an idle engine, seconds; 0 as long as nothing is known of any."""
        return 0.0 if self.prospect is None else self.prospect.alone_s

    @property
    def has_begun(self) -> bool:
        """Whether its first token has come already, from an engine that is lost."""
        return self.submit.delivered_tokens > 0


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that is over: its last epoch, and the error if the scheduler itself gave it up."""

    epoch: int
    at: float
    error: SageError | None = None


class RequestBook:
    """All open requests by id, and a bounded memory of ended ones, so that a late duplicate does not run again."""

    def __init__(self, keep_s: float = 60.0, keep: int = 100_000) -> None:
        self._open: dict[str, Request] = {}
        self._ended: OrderedDict[str, Ended] = OrderedDict()
        self._keep_s, self._keep = keep_s, keep

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._open.values()))

    def get(self, request_id: str) -> Request | None:
        return self._open.get(request_id)

    def open(self, request: Request) -> None:
        """Add a request, or put a newer epoch in the place of the one that is there."""
        self._open[request.request_id] = request

    def close(self, request_id: str, ended: Ended) -> Request | None:
        """Remove a request and remember that it has ended; returns it if it was open."""
        self._ended[request_id] = ended
        self._ended.move_to_end(request_id)
        self._forget(ended.at)
        return self._open.pop(request_id, None)

    def forget(self, request_id: str) -> None:
        """Remove a request without remembering it."""
        self._open.pop(request_id, None)

    def ended(self, request_id: str) -> Ended | None:
        return self._ended.get(request_id)

    def clear(self) -> None:
        """Forget everything."""
        self._open.clear()
        self._ended.clear()

    def _forget(self, now: float) -> None:
        while self._ended:
            oldest = next(iter(self._ended.values()))
            if len(self._ended) <= self._keep and now - oldest.at <= self._keep_s:
                return
            self._ended.popitem(last=False)
