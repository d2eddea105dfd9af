"""Index blocks: by their chained hashes a scheduler knows which prompts begin alike, without seeing any."""

from collections.abc import Sequence
from hashlib import blake2b
from struct import pack

BLOCK_TOKENS = 16
"""Tokens per index block, the same in a deployment: a page of the engines' caches."""

TOKEN_BYTES = 4


def chained_hash(parent: int, token_ids: Sequence[int]) -> int:
    """Return the 63-bit hash of tokens behind a block with hash `parent` (0: at the beginning)."""
    return _hash(parent, _packed(token_ids))


def block_hashes(token_ids: Sequence[int]) -> tuple[int, ...]:
    """Return the chained hashes of the whole blocks; equal prefixes give equal hashes."""
    packed, size = _packed(token_ids), BLOCK_TOKENS * TOKEN_BYTES
    hashes: list[int] = []
    parent = 0
    for start in range(0, len(packed) - size + 1, size):
        parent = _hash(parent, packed[start : start + size])
        hashes.append(parent)
    return tuple(hashes)


def _packed(token_ids: Sequence[int]) -> bytes:
    return pack(f"<{len(token_ids)}I", *token_ids)


def _hash(parent: int, packed: bytes) -> int:
    digest = blake2b(parent.to_bytes(8, "little") + packed, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
