"""Which requests are open, which have ended lately, and which epoch of each counts."""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.core.types import EngineRequest, RequestKey

REMEMBER_S = 60.0
"""How long an ended or cancelled key is remembered, in seconds: a cancel may overtake its request by as much."""


class Known(Enum):
    """What the table knows of a key."""

    NO = "no"
    OPEN = "open"
    ENDED = "ended"
    CANCELLED = "cancelled"
    STALE = "stale"  # a newer epoch of the request has come


@dataclass(slots=True)
class OpenRequest:
    """A request and those of its choices that have not ended."""

    request: EngineRequest
    sequences: list[SequenceState]


class RequestTable:
    """Keys are (request id, epoch). At most one epoch of a request is open."""

    def __init__(self) -> None:
        self._open: dict[RequestKey, OpenRequest] = {}
        self._epochs: dict[str, int] = {}
        self._ended: OrderedDict[RequestKey, tuple[float, Known]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of open requests."""
        return len(self._open)

    def known(self, key: RequestKey, now: float) -> Known:
        """Return what is known of a key."""
        self._expire(now)
        if key in self._open:
            return Known.OPEN
        if key in self._ended:
            return self._ended[key][1]
        return Known.STALE if self._epochs.get(key[0], key[1]) > key[1] else Known.NO

    def older_epoch(self, key: RequestKey) -> RequestKey | None:
        """Return the open older epoch of a request, which the given one replaces."""
        older = (key[0], self._epochs.get(key[0], key[1]))
        return older if older in self._open and older != key else None

    def get(self, key: RequestKey) -> OpenRequest | None:
        """Return an open request."""
        return self._open.get(key)

    def keys(self) -> list[RequestKey]:
        """Return the open keys."""
        return list(self._open)

    def open(self, entry: OpenRequest) -> None:
        """Add a request whose key is unknown."""
        key = entry.request.key
        self._open[key] = entry
        self._epochs[key[0]] = key[1]

    def end(self, key: RequestKey, now: float, how: Known = Known.ENDED) -> None:
        """Close a key, or mark one that has not come yet as cancelled."""
        self._open.pop(key, None)
        self._ended.pop(key, None)  # so that the oldest stay first
        self._ended[key] = (now + REMEMBER_S, how)
        self._expire(now)

    def _expire(self, now: float) -> None:
        while self._ended:
            key, (until, _) = next(iter(self._ended.items()))
            if until > now:
                return
            del self._ended[key]
            if self._epochs.get(key[0]) == key[1] and key not in self._open:
                del self._epochs[key[0]]
