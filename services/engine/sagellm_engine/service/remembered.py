"""Facts that are worth knowing for a while only."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_REMEMBERED = 65_536


class Remembered(Generic[K, V]):
    """A map whose entries are forgotten `keep_s` seconds after they were set, the oldest first when it is full."""

    def __init__(self, keep_s: float, max_size: int = MAX_REMEMBERED) -> None:
        self._keep_s, self._max_size = keep_s, max_size
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many entries are held, over-aged ones included."""
        return len(self._entries)

    def set(self, key: K, value: V, now: float) -> None:
        """Remember `value` from now on."""
        self.expire(now)
        self._entries[key] = (now + self._keep_s, value)
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_size:
            self._entries.popitem(last=False)

    def get(self, key: K, default: V, now: float) -> V:
        """Return what is remembered, or `default`."""
        until, value = self._entries.get(key, (now, default))
        return value if until > now else default

    def expire(self, now: float) -> None:
        """Forget what is too old; entries are in the order of their age."""
        while self._entries:
            key, (until, _) = next(iter(self._entries.items()))
            if until > now:
                return
            del self._entries[key]
