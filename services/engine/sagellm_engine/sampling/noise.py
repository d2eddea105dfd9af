"""Gumbel noise as a pure function of (seed, position, stream, vocabulary id).

Key = seed, counter = (position, stream, id // 4, 0); an id takes word id % 4. Legend: R rows, C candidates of a row,
V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.sampling.philox import Words, philox, uniform

MAX_NOISE = 16.636
"""No noise is larger: −ln(−ln(1 − 2⁻²⁴)) rounded up."""
MIN_NOISE = -2.812
"""No noise is smaller: −ln(−ln(2⁻²⁴)) rounded down."""


@dataclass(slots=True)
class NoiseSource:
    """Where the noise of each row comes from: seed halves, position, stream; all int64 [R, 1]."""

    key_0: Tensor
    key_1: Tensor
    position: Tensor
    stream: Tensor


def noise_source(rows: Sequence[SequenceState], device: torch.device) -> NoiseSource:
    """Describe the noise of the token behind each sequence's last; a choice is its own stream."""
    table = [
        (seq.sampling.seed & 0xFFFFFFFF, seq.sampling.seed >> 32 & 0xFFFFFFFF, len(seq.tokens), seq.choice)
        for seq in rows
    ]
    columns = torch.tensor(table, dtype=torch.int64, device=device)
    return NoiseSource(*(column[:, None] for column in columns.unbind(1)))


def gumbel_at(source: NoiseSource, ids_RC: Tensor) -> Tensor:
    """Return the noise [R, C] of given vocabulary ids."""
    blocks = ids_RC >> 2
    words = philox(_counter(source, blocks), source.key_0, source.key_1)
    place = ids_RC & 3
    chosen = torch.where(
        place < 2,
        torch.where(place == 0, words.w0, words.w1),
        torch.where(place == 2, words.w2, words.w3),
    )
    return _gumbel(uniform(chosen))


def gumbel_all(source: NoiseSource, vocab_size: int) -> Tensor:
    """Return the noise [R, V] of the whole vocabulary."""
    blocks = torch.arange(-(-vocab_size // 4), device=source.position.device)[None]
    words = philox(_counter(source, blocks), source.key_0, source.key_1)
    return _gumbel(uniform(torch.stack(words, dim=-1).flatten(1)[:, :vocab_size]))


def _counter(source: NoiseSource, blocks: Tensor) -> Words:
    return Words(source.position, source.stream, blocks, torch.zeros_like(source.position))


def _gumbel(u: Tensor) -> Tensor:
    return -torch.log(-torch.log(u))
