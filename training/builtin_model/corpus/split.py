"""Which combinations are held out of training, decided by a hash that never changes."""

import hashlib
from enum import Enum
from random import Random

HELD_OUT_PERCENT = 10


class Split(Enum):
    """The two disjoint parts of everything that the corpus program can write."""

    TRAIN = "train"
    HELD_OUT = "held_out"

    def admits(self, *parts: object) -> bool:
        """Whether the combination of these parts belongs to this split."""
        digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=4).digest()
        held_out = int.from_bytes(digest, "big") % 100 < HELD_OUT_PERCENT
        return held_out == (self is Split.HELD_OUT)


def seeded(*parts: object) -> Random:
    """A random source that depends on the parts alone, the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return Random(int.from_bytes(digest, "big"))
