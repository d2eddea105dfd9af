"""Attention in tiles of one shape, so that a row's bits do not depend on its company: the plain twin of our kernels.

Rows of a sequence are taken four at a time and keys 64 at a time, at absolute positions, with a running maximum and sum
(Milakov and Gimelshein 2018, arXiv:1805.02867): every product has the same shape whatever the step holds.

Legend: T rows of the step, n row tiles, R = 4 rows of a tile, P pages of a sequence, N query heads, K key/value heads,
G = N / K, D head size, L = 64 keys of a tile.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.kv.pool import PAGE_SIZE

ROW_TILE = 4
PAGES_A_TILE = 4
KEY_TILE = PAGES_A_TILE * PAGE_SIZE
WHOLE_VECTORS = 16
"""Exponentials are taken of so many equal numbers: torch's own loops round the rest of a vector differently."""


@dataclass(slots=True)
class TiledBatch:
    """A step's rows in tiles.

    `slots` [T] is where each row's key and value go. `rows` [n · R] are the step's rows, the first one again where a
    tile has fewer; `filled` are the places in it that count. `positions` [n, R]; `pages` [n, P], the null page behind.
    """

    slots: Tensor
    rows: Tensor
    filled: Tensor
    positions: Tensor
    pages: Tensor


def build_tiled_batch(
    sequences: Sequence[SequenceState], null_page: int, dtype: torch.dtype, device: torch.device
) -> TiledBatch:
    """Lay out a step."""
    slots: list[int] = []
    rows: list[int] = []
    filled: list[int] = []
    positions: list[int] = []
    pages: list[list[int]] = []
    for seq in sequences:
        first, start, stop = len(slots), seq.num_computed, seq.num_computed + seq.num_scheduled
        slots.extend(seq.pages[at // PAGE_SIZE] * PAGE_SIZE + at % PAGE_SIZE for at in range(start, stop))
        for tile in range(start, stop, ROW_TILE):
            inside = list(range(tile, min(tile + ROW_TILE, stop)))
            filled.extend(range(len(rows), len(rows) + len(inside)))
            inside += [tile] * (ROW_TILE - len(inside))
            rows.extend(first + at - start for at in inside)
            positions.extend(inside)
            pages.append(seq.pages[: max(inside) // PAGE_SIZE + 1])
    width = -(-max(map(len, pages)) // PAGES_A_TILE) * PAGES_A_TILE
    table = [used + [null_page] * (width - len(used)) for used in pages]
    return TiledBatch(
        torch.tensor(slots, device=device),
        torch.tensor(rows, device=device),
        torch.tensor(filled, device=device),
        torch.tensor(positions, device=device).view(-1, ROW_TILE),
        torch.tensor(table, device=device),
    )


def tiled_attention(
    q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, k_pages: Tensor, v_pages: Tensor, batch: TiledBatch
) -> Tensor:
    """Attend tile by tile; see `Attention`. The step's keys and values are read from the pages."""
    num_kv, head_dim = k_pages.shape[2:]
    num_tiles, group = len(batch.positions), q_TND.shape[1] // num_kv
    q = q_TND[batch.rows].view(num_tiles, ROW_TILE, num_kv, group, head_dim).transpose(1, 2)
    q = (q * head_dim**-0.5).reshape(num_tiles * num_kv, ROW_TILE * group, head_dim)
    position = batch.positions[:, None, :, None].expand(-1, num_kv, -1, group).reshape(len(q), -1, 1)
    best = q.new_full((*q.shape[:2], 1), float("-inf"))
    total, out = torch.zeros_like(best), torch.zeros_like(q)
    for start in range(0, batch.pages.shape[1] * PAGE_SIZE, KEY_TILE):
        # the first tile comes first for every row, so that there is a maximum when later ones are masked
        pages = batch.pages[:, start // PAGE_SIZE : start // PAGE_SIZE + PAGES_A_TILE]
        keys, values = (_tile(table, pages, num_kv) for table in (k_pages, v_pages))
        scores = torch.bmm(q, keys.transpose(1, 2))
        future = torch.arange(start, start + KEY_TILE, device=q.device) > position
        scores.masked_fill_(future, float("-inf"))
        largest = torch.maximum(best, scores.amax(dim=-1, keepdim=True))
        weights = torch.exp(scores - largest)
        shrink = torch.exp((best - largest).expand(-1, -1, WHOLE_VECTORS).contiguous())[..., :1]
        total = total * shrink + weights.sum(dim=-1, keepdim=True)
        out = out * shrink + torch.bmm(weights, values)
        best = largest
    out = (out / total).view(num_tiles, num_kv, ROW_TILE, group, head_dim).transpose(1, 2)
    return out.reshape(num_tiles * ROW_TILE, -1, head_dim)[batch.filled]


def _tile(table: Tensor, pages: Tensor, num_kv: int) -> Tensor:
    """Return the keys or values [n · K, L, D] of some pages [n, 4]."""
    tile = table[pages].flatten(1, 2).transpose(1, 2)
    return tile.reshape(-1, KEY_TILE, tile.shape[-1])
