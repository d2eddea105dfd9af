"""The prefix cache as told to schedulers: numbered changes, and all of it for who has missed some."""

from collections.abc import Iterator
from itertools import islice

from sagellm_common.contracts.kv import KvEvents, SnapshotReply
from sagellm_engine.core.types import CacheChanges

BLOCKS_PER_PART = 50_000
"""A hash takes nine bytes: a part stays far below the largest message."""


class Prefixes:
    """What has been told of one incarnation's prefix cache."""

    def __init__(self, engine_id: str, incarnation: str) -> None:
        self._engine_id, self._incarnation = engine_id, incarnation
        self._blocks: set[int] = set()
        self._number = 0

    @property
    def number(self) -> int:
        """Of the last event."""
        return self._number

    def changed(self, changes: CacheChanges) -> KvEvents:
        """Return the message that tells of changes."""
        self._number += 1
        self._blocks.difference_update(changes.removed)
        self._blocks.update(changes.stored)
        return KvEvents(self._engine_id, self._incarnation, self._number, list(changes.stored), list(changes.removed))

    def snapshot(self) -> Iterator[SnapshotReply]:
        """Yield all blocks in parts, at least one."""
        blocks = iter(sorted(self._blocks))
        num_parts = max(1, -(-len(self._blocks) // BLOCKS_PER_PART))
        for part in range(num_parts):
            yield SnapshotReply(
                engine_id=self._engine_id,
                incarnation=self._incarnation,
                number=self._number,
                blocks=list(islice(blocks, BLOCKS_PER_PART)),
                part=part,
                last=part == num_parts - 1,
            )
