"""Which rows of a step belong to which pages: prepared once per step, used by every layer.

Legend: T rows of the step, B decoding sequences, P pages of a sequence, L = 16 P, N query heads, K key/value heads,
G = N / K, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.kv.pool import PAGE_SIZE


@dataclass(slots=True)
class DecodeGroup:
    """Decoding sequences of similar length.

    `rows` [B] are their places in the step, or a slice when they are neighbours; `pages` [B, P] is padded with the null
    page; `mask` [B, 1, 1, L] is 0 where a key exists, else −inf.
    """

    rows: Tensor | slice
    pages: Tensor
    mask: Tensor


@dataclass(slots=True)
class PrefillChunk:
    """One sequence's chunk: rows `start` to `stop` of the step, behind `num_context` keys that are in pages already.

    `pages` [P] and `mask` [rows, L], additive, are None where nothing comes before the chunk.
    """

    start: int
    stop: int
    num_context: int
    pages: Tensor | None
    mask: Tensor | None


@dataclass(slots=True)
class AttentionBatch:
    """A step's rows. `slots` [T] is where each row's key and value go: page × 16 + place in the page."""

    slots: Tensor
    decode: list[DecodeGroup]
    prefill: list[PrefillChunk]


def build_batch(
    rows: Sequence[SequenceState], null_page: int, dtype: torch.dtype, device: torch.device
) -> AttentionBatch:
    """Lay out a step: decoding sequences in groups whose page counts differ by less than a factor of two."""
    slots: list[int] = []
    groups: dict[int, list[tuple[int, SequenceState]]] = {}
    prefill = []
    for seq in rows:
        start = len(slots)
        for position in range(seq.num_computed, seq.num_computed + seq.num_scheduled):
            slots.append(seq.pages[position // PAGE_SIZE] * PAGE_SIZE + position % PAGE_SIZE)
        if seq.num_scheduled == 1:
            groups.setdefault((seq.num_computed // PAGE_SIZE + 1).bit_length(), []).append((start, seq))
        else:
            prefill.append(_chunk(seq, start, dtype, device))
    return AttentionBatch(
        slots=torch.tensor(slots, device=device),
        decode=[_group(members, null_page, dtype, device) for members in groups.values()],
        prefill=prefill,
    )


def _group(
    members: list[tuple[int, SequenceState]], null_page: int, dtype: torch.dtype, device: torch.device
) -> DecodeGroup:
    lengths = [seq.num_computed + 1 for _, seq in members]
    num_pages = -(-max(lengths) // PAGE_SIZE)
    table = []
    for length, (_, seq) in zip(lengths, members, strict=True):
        used = -(-length // PAGE_SIZE)
        table.append(seq.pages[:used] + [null_page] * (num_pages - used))
    keys = torch.arange(num_pages * PAGE_SIZE, device=device)
    mask = torch.zeros(len(members), num_pages * PAGE_SIZE, dtype=dtype, device=device)
    mask.masked_fill_(keys >= torch.tensor(lengths, device=device)[:, None], float("-inf"))
    first, last = members[0][0], members[-1][0]
    neighbours = last - first == len(members) - 1
    return DecodeGroup(
        rows=slice(first, last + 1) if neighbours else torch.tensor([row for row, _ in members], device=device),
        pages=torch.tensor(table, device=device),
        mask=mask[:, None, None],
    )


def _chunk(seq: SequenceState, start: int, dtype: torch.dtype, device: torch.device) -> PrefillChunk:
    stop, context = start + seq.num_scheduled, seq.num_computed
    if context == 0:
        return PrefillChunk(start, stop, 0, None, None)
    end = context + seq.num_scheduled
    num_pages = -(-end // PAGE_SIZE)
    keys = torch.arange(num_pages * PAGE_SIZE, device=device)
    mask = torch.zeros(seq.num_scheduled, num_pages * PAGE_SIZE, dtype=dtype, device=device)
    mask.masked_fill_(keys > torch.arange(context, end, device=device)[:, None], float("-inf"))
    return PrefillChunk(start, stop, context, torch.tensor(seq.pages[:num_pages], device=device), mask)
