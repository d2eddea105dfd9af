"""What an engine's prefix cache holds, in index blocks. Hot: packed as arrays."""

from dataclasses import dataclass, field

from pydantic import Field

from sagellm_common.contracts.base import Message
from sagellm_common.contracts.packed import Packed


@dataclass(slots=True)
class KvEvents(Packed):
    """Changes of one engine's prefix cache, in the order cleared, stored, removed; blocks by their chained hashes.

    `number` counts the messages of an incarnation from 1: whoever misses one asks for a snapshot.
    """

    engine_id: str
    incarnation: str
    number: int
    stored: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    cleared: bool = False


class SnapshotRequest(Message):
    """Ask an engine for all blocks of its prefix cache."""

    scheduler_id: str


class SnapshotReply(Message):
    """One part of an engine's prefix cache as of event `number`; `last` marks the last part."""

    engine_id: str
    incarnation: str
    number: int
    blocks: list[int] = Field(default=[], description="chained hashes")
    part: int = 0
    last: bool = True
