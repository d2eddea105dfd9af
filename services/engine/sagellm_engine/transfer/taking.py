"""The decode engine's side: pages are reserved, filled by reads that cannot be taken back, and adopted or thrown away.

A read into a page may land at any time until its handle is terminal. So the pages of a lease that has ended with reads
under way are quarantined: neither free nor anybody's, until the last handle of theirs is terminal. A handle that does
not become terminal for too long makes the transfer agent be recreated, which ends all reads.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum

from sagellm_engine.transfer.giving import Send
from sagellm_engine.transfer.lease import Close, Closed, LeaseId, Message, Offer, Ready, Refusal, Taken

PATIENCE_S = 6.0
CLOSE_AGAIN_S = 0.25
MOST_QUARANTINE_S = 30.0
REMEMBER_S = 60.0


Request = tuple[str, int]
"""Request id and epoch."""


class Stage(Enum):
    """Where a lease stands at the taking side."""

    READING = "pages are read as they become ready"
    CLOSING = "everything is read; whether it is good has been asked"


@dataclass(frozen=True, slots=True)
class Read:
    """Have P's pages `sources`, which are number `first` and following of the lease's, read into ours, `pages`, which
    are all that were reserved for it; answered by `read_ended` with `handle`."""

    handle: int
    lease: LeaseId
    first: int
    sources: tuple[int, ...]
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Adopt:
    """The pages hold the prompt's keys and values: the request goes on from `first`; the pages are its own now."""

    request: Request
    pages: tuple[int, ...]
    first: object


@dataclass(frozen=True, slots=True)
class Recompute:
    """Nothing came of the hand-off: prefill the request here."""

    request: Request
    reason: str


@dataclass(frozen=True, slots=True)
class FreePages:
    """Pages that nothing can be written into any more."""

    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RecreateAgent:
    """Reads hang: end them all by making the transfer agent anew; answered by `agent_recreated`."""


TakingAction = Send | Read | Adopt | Recompute | FreePages | RecreateAgent


@dataclass(slots=True)
class _Lease:
    giver: str
    sources: tuple[int, ...]
    pages: tuple[int, ...]
    gives_up_at: float
    stage: Stage = Stage.READING
    num_ready: int = 0
    num_asked: int = 0
    under_way: set[int] = field(default_factory=set)
    close_at: float = 0.0


@dataclass(slots=True)
class _Quarantine:
    pages: tuple[int, ...]
    handles: set[int]
    until: float


class TakingSide:
    """All hand-offs to one decode engine. Times in seconds on this engine's clock.

    Each request that is expected ends in one Adopt or one Recompute, unless it is cancelled.
    """

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._expected: dict[Request, float] = {}  # until when its offer is waited for
        self._over: OrderedDict[Request, float] = OrderedDict()
        self._leases: dict[LeaseId, _Lease] = {}
        self._quarantine: list[_Quarantine] = []
        self._last_handle = 0
        self._is_recreating = False
        self._out: list[TakingAction] = []

    @property
    def reserved_pages(self) -> int:
        """Pages held for leases."""
        return sum(len(lease.pages) for lease in self._leases.values())

    @property
    def quarantined_pages(self) -> int:
        """Pages into which something may still be written."""
        return sum(len(entry.pages) for entry in self._quarantine)

    @property
    def num_open(self) -> int:
        """Requests that wait for a hand-off."""
        return len(self._expected) + len(self._leases)

    def expect(self, request: Request, now: float) -> list[TakingAction]:
        """A request has been dispatched here whose prompt another engine prefills; a repetition changes nothing."""
        if request not in self._over and not self.waits_for(request):
            self._expected[request] = now + self._patience_s
        return self._drain()

    def offered(
        self, offer: Offer, giver: str, pages: tuple[int, ...] | None, now: float, *, num_known: int = 0
    ) -> list[TakingAction]:
        """Take an offer. Where it is wanted, `pages` of ours are reserved; None: none are left, or it does not fit.
        What the first `num_known` of the offered pages hold is here already.

        One that came before its request is not answered: it comes again.
        """
        request = (offer.lease.request_id, offer.lease.epoch)
        if offer.lease in self._leases:
            self._out.append(Send(giver, Taken(offer.lease)))
            self._ready(offer.lease, self._leases[offer.lease], offer.num_ready, now)
        elif request in self._over:
            self._out.append(Send(giver, Refusal(offer.lease)))
        elif request in self._expected and pages is not None:
            del self._expected[request]
            lease = self._leases[offer.lease] = _Lease(
                giver, offer.pages, pages, now + self._patience_s, num_asked=num_known
            )
            self._out.append(Send(giver, Taken(offer.lease)))
            self._ready(offer.lease, lease, offer.num_ready, now)
            pages = None
        elif request in self._expected:
            del self._expected[request]
            self._out.append(Send(giver, Refusal(offer.lease)))
            self._recompute(request, "no room for the pages, or they do not fit", now)
        if pages is not None:
            self._out.append(FreePages(pages))
        return self._drain()

    def wants(self, offer: Offer) -> bool:
        """Whether an offer is news, so that pages should be reserved for it."""
        return offer.lease not in self._leases and (offer.lease.request_id, offer.lease.epoch) in self._expected

    def take(self, message: Message, now: float) -> list[TakingAction]:
        """Take what the giving side says about a lease."""
        if isinstance(message, (Ready, Closed)):
            lease = self._leases.get(message.lease)
            if lease is not None and isinstance(message, Ready):
                self._ready(message.lease, lease, message.num_pages, now)
            elif lease is not None and isinstance(message, Closed) and lease.stage is Stage.CLOSING:
                self._closed(message.lease, lease, message, now)
        return self._drain()

    def read_ended(self, handle: int, ok: bool, now: float) -> list[TakingAction]:
        """A read's handle is terminal: nothing more will be written for it."""
        for name, lease in list(self._leases.items()):
            if handle in lease.under_way:
                lease.under_way.discard(handle)
                if not ok:
                    self._fail(name, lease, "a read failed", now)
                elif lease.num_asked == len(lease.sources) and not lease.under_way:
                    self._ask(name, lease, now)
        self._heal(handle)
        return self._drain()

    def requests(self) -> list[Request]:
        """Return the requests that wait for their hand-offs."""
        return [*self._expected, *((name.request_id, name.epoch) for name in self._leases)]

    def waits_for(self, request: Request) -> bool:
        """Whether a request still waits for its hand-off."""
        return request in self._expected or any((name.request_id, name.epoch) == request for name in self._leases)

    def cancel(self, request: Request, now: float) -> list[TakingAction]:
        """The request is no longer wanted: it ends without Adopt or Recompute, even if it comes only after this."""
        self._expected.pop(request, None)
        self._note_over(request, now)
        for name, lease in list(self._leases.items()):
            if (name.request_id, name.epoch) == request:
                self._let_go(name, lease, now)
        return self._drain()

    def abandoned(self, request: Request, reason: str, now: float) -> list[TakingAction]:
        """The prefill engine will not hand this request over: prefill it here."""
        if self._expected.pop(request, None) is not None:
            self._recompute(request, reason, now)
        for name, lease in list(self._leases.items()):
            if (name.request_id, name.epoch) == request:
                self._fail(name, lease, reason, now)
        return self._drain()

    def agent_recreated(self, now: float) -> list[TakingAction]:
        """All reads have ended with the old agent."""
        self._is_recreating = False
        for name, lease in list(self._leases.items()):
            if lease.under_way:
                lease.under_way.clear()
                self._fail(name, lease, "the transfer agent was made anew", now)
        for entry in self._quarantine:
            self._out.append(FreePages(entry.pages))
        self._quarantine.clear()
        return self._drain()

    def tick(self, now: float) -> list[TakingAction]:
        """Give up what has waited too long, ask again what was not answered."""
        for request, until in list(self._expected.items()):
            if now >= until:
                del self._expected[request]
                self._recompute(request, "no offer came", now)
        for name, lease in list(self._leases.items()):
            if now >= lease.gives_up_at:
                self._fail(name, lease, "the hand-off did not get on", now)
            elif lease.stage is Stage.CLOSING and now >= lease.close_at:
                self._ask(name, lease, now)
        if not self._is_recreating and any(now >= entry.until for entry in self._quarantine):
            self._is_recreating = True
            self._out.append(RecreateAgent())
        while self._over and next(iter(self._over.values())) <= now:
            self._over.popitem(last=False)
        return self._drain()

    def _ready(self, name: LeaseId, lease: _Lease, num_ready: int, now: float) -> None:
        if num_ready < 0:
            self._fail(name, lease, "the prefill was given up", now)
            return
        num_ready = min(num_ready, len(lease.sources))
        if lease.stage is not Stage.READING or num_ready <= lease.num_ready:
            return
        lease.num_ready, lease.gives_up_at = num_ready, now + self._patience_s
        if num_ready > lease.num_asked:
            self._last_handle += 1
            lease.under_way.add(self._last_handle)
            sources = lease.sources[lease.num_asked : num_ready]
            self._out.append(Read(self._last_handle, name, lease.num_asked, sources, lease.pages))
            lease.num_asked = num_ready

    def _ask(self, name: LeaseId, lease: _Lease, now: float) -> None:
        if lease.stage is Stage.READING:
            lease.stage, lease.gives_up_at = Stage.CLOSING, now + self._patience_s
        lease.close_at = now + CLOSE_AGAIN_S
        self._out.append(Send(lease.giver, Close(name, wanted=True)))

    def _closed(self, name: LeaseId, lease: _Lease, answer: Closed, now: float) -> None:
        if not answer.valid:
            self._fail(name, lease, "the lease had run out", now)
            return
        del self._leases[name]
        self._note_over((name.request_id, name.epoch), now)
        self._out.append(Adopt((name.request_id, name.epoch), lease.pages, answer.first))

    def _fail(self, name: LeaseId, lease: _Lease, reason: str, now: float) -> None:
        self._let_go(name, lease, now)
        self._recompute((name.request_id, name.epoch), reason, now)

    def _let_go(self, name: LeaseId, lease: _Lease, now: float) -> None:
        """End a lease without a result: tell P, and keep the pages apart while something may land in them."""
        del self._leases[name]
        self._note_over((name.request_id, name.epoch), now)
        self._out.append(Send(lease.giver, Close(name, wanted=False)))
        if lease.under_way:
            self._quarantine.append(_Quarantine(lease.pages, lease.under_way, now + MOST_QUARANTINE_S))
        else:
            self._out.append(FreePages(lease.pages))

    def _recompute(self, request: Request, reason: str, now: float) -> None:
        self._note_over(request, now)
        self._out.append(Recompute(request, reason))

    def _note_over(self, request: Request, now: float) -> None:
        self._over[request] = now + REMEMBER_S

    def _heal(self, handle: int) -> None:
        for entry in list(self._quarantine):
            entry.handles.discard(handle)
            if not entry.handles:
                self._quarantine.remove(entry)
                self._out.append(FreePages(entry.pages))

    def _drain(self) -> list[TakingAction]:
        out, self._out = self._out, []
        return out
