"""The blocks of every engine's prefix cache, kept current by numbered events and repaired by snapshots."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sagellm_common.contracts.kv import KvEvents

EXPECT_S = 5.0


@dataclass(slots=True)
class _Known:
    """What is known of one engine. `number`: of the last event taken; None while a snapshot is missing."""

    number: int | None
    blocks: set[int] = field(default_factory=set)
    expected: dict[int, float] = field(default_factory=dict)


class KvIndex:
    """Engines by slot, blocks by hash. A block's hash covers all before it, so that a prefix is a run of known blocks.

    A block that has just been sent to an engine is expected to be there soon and counted at once, so that requests that
    come together with the same prefix go together too.
    """

    def __init__(self) -> None:
        self._engines: dict[int, _Known] = {}
        self._holders: dict[int, int] = {}  # block: the slots that have it, as bits

    def __len__(self) -> int:
        """Return the number of different blocks known."""
        return len(self._holders)

    def begin(self, slot: int) -> None:
        """A new incarnation of an engine has an empty cache, and its events begin with number 1."""
        self.forget(slot)
        self._engines[slot] = _Known(number=0)

    def forget(self, slot: int) -> None:
        """An engine is gone."""
        known = self._engines.pop(slot, None)
        if known is not None:
            for block in known.blocks:
                self._drop(slot, block)

    def apply(self, slot: int, events: KvEvents) -> bool:
        """Take events; returns False if some before them are missing, so that a snapshot is needed."""
        known = self._engines.setdefault(slot, _Known(number=None))
        if known.number is None or events.number > known.number + 1:
            known.number = None
            return False
        if events.number <= known.number:
            return True
        known.number = events.number
        if events.cleared:
            self._clear(slot, known)
        for block in events.stored:
            known.expected.pop(block, None)
            self._add(slot, known, block)
        for block in events.removed:
            if block in known.blocks:
                known.blocks.discard(block)
                self._drop(slot, block)
        return True

    def load(self, slot: int, number: int, blocks: Iterable[int]) -> None:
        """Take a snapshot of an engine's cache as of event `number`."""
        known = self._engines.setdefault(slot, _Known(number=None))
        if known.number is not None and known.number >= number:
            return
        self._clear(slot, known)
        known.number = number
        for block in blocks:
            self._add(slot, known, block)

    def number(self, slot: int) -> int:
        """Return the number of the last event taken of an engine; -1 while a snapshot is missing."""
        known = self._engines.get(slot)
        return -1 if known is None or known.number is None else known.number

    def expect(self, slot: int, blocks: Sequence[int], now: float) -> None:
        """A prompt with these blocks is on its way to an engine."""
        known = self._engines.setdefault(slot, _Known(number=None))
        for block in blocks:
            if block not in known.blocks:
                known.expected[block] = now + EXPECT_S
                self._add(slot, known, block)

    def expire(self, now: float) -> None:
        """Forget what was expected and has not come."""
        for slot, known in self._engines.items():
            if known.expected and next(iter(known.expected.values())) <= now:
                for block in [block for block, until in known.expected.items() if until <= now]:
                    del known.expected[block]
                    known.blocks.discard(block)
                    self._drop(slot, block)

    def overlap(self, blocks: Sequence[int], slots: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return how many of the first `blocks` each engine has without a gap, shape [n]; O(blocks + engines found)."""
        found: dict[int, int] = {}
        holders = -1
        for number, block in enumerate(blocks):
            still = holders & self._holders.get(block, 0)
            if number:
                _note(found, holders & ~still, number)
            holders = still
            if not holders:
                break
        else:
            if blocks:
                _note(found, holders, len(blocks))
        if not found:
            return np.zeros(len(slots))
        return np.array([found.get(int(slot), 0) for slot in slots], np.float64)

    def _add(self, slot: int, known: _Known, block: int) -> None:
        known.blocks.add(block)
        self._holders[block] = self._holders.get(block, 0) | 1 << slot

    def _drop(self, slot: int, block: int) -> None:
        left = self._holders.get(block, 0) & ~(1 << slot)
        if left:
            self._holders[block] = left
        else:
            self._holders.pop(block, None)

    def _clear(self, slot: int, known: _Known) -> None:
        for block in known.blocks:
            self._drop(slot, block)
        known.blocks.clear()
        known.expected.clear()


def _note(found: dict[int, int], holders: int, number: int) -> None:
    """Note the count of every slot whose bit is set."""
    while holders:
        lowest = holders & -holders
        found[lowest.bit_length() - 1] = number
        holders ^= lowest
