"""The prefill engine's side: pages that another engine may read are held under a lease, by this engine's clock alone.

A lease is renewed by the progress of the prefill; once everything is ready its term runs until it is closed. Expiry is
sticky: a Close that comes later finds it expired, whatever it says. Outcomes are kept as tombstones, so that all Closes
of a lease get the same answer.
"""

from collections import OrderedDict
from dataclasses import dataclass

from sagellm_engine.transfer.lease import Close, Closed, Ended, LeaseId, Message, Offer, Ready, Refusal, Taken

TERM_S = 5.0
ANNOUNCE_S = 0.25
KEEP_TOMBSTONES_S = 60.0


@dataclass(frozen=True, slots=True)
class Send:
    """Have a message sent to another engine."""

    to: str
    message: Message


@dataclass(frozen=True, slots=True)
class Release:
    """Pages of a lease are no longer promised to anybody: they may be freed and used again."""

    lease: LeaseId
    pages: tuple[int, ...]
    ended: Ended


GivingAction = Send | Release


@dataclass(slots=True)
class _Lease:
    to: str
    pages: tuple[int, ...]
    expires_at: float
    announce_at: float
    is_taken: bool = False
    num_ready: int = 0
    first: object | None = None

    @property
    def is_complete(self) -> bool:
        return self.first is not None and self.num_ready == len(self.pages)


class GivingSide:
    """All leases of one prefill engine. Times in seconds on its own clock, which never goes back."""

    def __init__(self, incarnation: str, *, term_s: float = TERM_S) -> None:
        self._incarnation, self._term_s = incarnation, term_s
        self._leases: dict[LeaseId, _Lease] = {}
        self._tombstones: OrderedDict[LeaseId, tuple[float, Closed]] = OrderedDict()
        self._last_nonce = 0
        self._out: list[GivingAction] = []

    def __len__(self) -> int:
        """Return the number of leases that hold pages."""
        return len(self._leases)

    @property
    def leased_pages(self) -> int:
        """Pages that must neither be freed nor preempted."""
        return sum(len(lease.pages) for lease in self._leases.values())

    def offer(
        self, request_id: str, epoch: int, pages: tuple[int, ...], to: str, now: float, *, num_ready: int = 0
    ) -> tuple[LeaseId, list[GivingAction]]:
        """The prefill of a request begins: promise its pages, some of which were there already, to the engine `to`."""
        self._last_nonce += 1
        name = LeaseId(self._incarnation, request_id, epoch, self._last_nonce)
        lease = self._leases[name] = _Lease(to, pages, now + self._term_s, 0.0, num_ready=num_ready)
        self._announce(name, lease, now)
        return name, self._drain()

    def progressed(self, name: LeaseId, num_ready: int, first: object | None, now: float) -> list[GivingAction]:
        """So many pages have really been written; with the last comes what the prefill made, `first`."""
        lease = self._leases.get(name)
        if lease is not None and self._is_live(name, lease, now):
            lease.num_ready, lease.first = max(lease.num_ready, num_ready), first
            lease.expires_at = now + self._term_s
            self._announce(name, lease, now)
        return self._drain()

    def give_up(self, name: LeaseId, now: float) -> list[GivingAction]:
        """The prefill has failed or was cancelled: D shall not wait for it."""
        lease = self._leases.get(name)
        if lease is not None:
            self._out.append(Send(lease.to, Ready(name, -1)))
            self._end(name, Ended.FAILED, now)
        return self._drain()

    def take(self, message: Message, sender: str, now: float) -> list[GivingAction]:
        """Take a message from the other side; what is not about a lease of ours is answered as not valid."""
        lease = self._leases.get(message.lease)
        if isinstance(message, Refusal) and lease is not None:
            self._end(message.lease, Ended.UNWANTED, now)
        elif isinstance(message, Taken) and lease is not None and self._is_live(message.lease, lease, now):
            lease.is_taken = True
            self._announce(message.lease, lease, now)
        elif isinstance(message, Close):
            self._close(message, sender, now)
        return self._drain()

    def tick(self, now: float) -> list[GivingAction]:
        """Let leases expire, repeat what is ready, forget old tombstones."""
        for name, lease in list(self._leases.items()):
            if self._is_live(name, lease, now) and now >= lease.announce_at:
                self._announce(name, lease, now)
        while self._tombstones and next(iter(self._tombstones.values()))[0] <= now:
            self._tombstones.popitem(last=False)
        return self._drain()

    def _close(self, message: Close, sender: str, now: float) -> None:
        lease = self._leases.get(message.lease)
        if lease is not None and self._is_live(message.lease, lease, now):
            is_valid = message.wanted and lease.is_complete
            self._end(
                message.lease, Ended.VALID if is_valid else Ended.UNWANTED, now, lease.first if is_valid else None
            )
        known = self._tombstones.get(message.lease)
        self._out.append(Send(sender, known[1] if known is not None else Closed(message.lease, valid=False)))

    def _is_live(self, name: LeaseId, lease: _Lease, now: float) -> bool:
        if now < lease.expires_at:
            return True
        self._end(name, Ended.EXPIRED, now)
        return False

    def _announce(self, name: LeaseId, lease: _Lease, now: float) -> None:
        lease.announce_at = now + ANNOUNCE_S
        if not lease.is_taken:
            self._out.append(Send(lease.to, Offer(name, lease.pages, lease.num_ready)))
        elif lease.num_ready:
            self._out.append(Send(lease.to, Ready(name, lease.num_ready)))

    def _end(self, name: LeaseId, ended: Ended, now: float, first: object | None = None) -> None:
        lease = self._leases.pop(name)
        answer = Closed(name, valid=ended is Ended.VALID, first=first)
        self._tombstones[name] = (now + KEEP_TOMBSTONES_S, answer)
        self._out.append(Release(name, lease.pages, ended))

    def _drain(self) -> list[GivingAction]:
        out, self._out = self._out, []
        return out
