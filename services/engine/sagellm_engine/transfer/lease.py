"""What both sides of a hand-off say to each other, and what they share."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class LeaseId(NamedTuple):
    """One attempt to hand one request over: the prefill engine's incarnation, the request, its epoch, a nonce."""

    incarnation: str
    request_id: str
    epoch: int
    nonce: int


@dataclass(frozen=True, slots=True)
class Offer:
    """P to D, until it is taken or refused: a prompt is being prefilled for you, into these pages of P's.

    So many of them, counted from the first, have been written to the end already.
    """

    lease: LeaseId
    pages: tuple[int, ...]
    num_ready: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """D to P: pages have been reserved for the offer."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class Refusal:
    """D to P: the offer cannot be taken; D prefills itself."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class Ready:
    """P to D, again and again: so many pages have been written to the end, counted from the first; -1: given up."""

    lease: LeaseId
    num_pages: int


@dataclass(frozen=True, slots=True)
class Close:
    """D to P, until it is answered: the last read is over, nothing will be read any more. `wanted`: D asks whether
    what it read is good; otherwise it has no use for it."""

    lease: LeaseId
    wanted: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """P to D, the same answer to every Close of a lease: whether the lease was valid throughout.

    `first` is what the prefill made of the request: token 0 and what belongs to it; None if not valid.
    """

    lease: LeaseId
    valid: bool
    first: object | None = None


Message = Offer | Taken | Refusal | Ready | Close | Closed


class Ended(Enum):
    """How a lease has ended at P."""

    VALID = "closed in time, after everything was ready"
    UNWANTED = "refused or given back"
    EXPIRED = "not renewed in time"
    FAILED = "the prefill was given up"
