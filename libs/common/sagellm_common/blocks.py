"""Index blocks: by their chained hashes a scheduler knows which prompts begin alike, without seeing any."""

from collections.abc import Sequence
from hashlib import blake2b
from struct import pack

BLOCK_TOKENS = 256
"""Tokens per index block, the same in a deployment and a multiple of every page size."""


def chained_hash(parent: int, token_ids: Sequence[int]) -> int:
    """Return the 63-bit hash of tokens behind a block with hash `parent` (0: at the beginning)."""
    digest = blake2b(pack(f"<Q{len(token_ids)}I", parent, *token_ids), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def block_hashes(token_ids: Sequence[int]) -> tuple[int, ...]:
    """Return the chained hashes of the whole blocks; equal prefixes give equal hashes."""
    hashes: list[int] = []
    parent = 0
    for start in range(0, len(token_ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        parent = chained_hash(parent, token_ids[start : start + BLOCK_TOKENS])
        hashes.append(parent)
    return tuple(hashes)
