"""Rendezvous hashing: each key has its own order of the engines, and losing one engine moves only its keys.

Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998. The mixing function is the finaliser
of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_MASK = 2**64 - 1


def stable_hash(text: str) -> int:
    """Return a 64-bit hash of `text` that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def highest(key: int, hashes: NDArray[np.uint64]) -> int:
    """Return the index whose hash, mixed with `key`, is highest; `hashes` has shape [n], n at least 1."""
    mixed = hashes ^ np.uint64(key & _MASK)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int(np.argmax(mixed ^ (mixed >> np.uint64(31))))
