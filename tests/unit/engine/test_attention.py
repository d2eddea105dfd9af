"""The fast attention equals the reference over every kind of row."""

import pytest
import torch

from sagellm_engine.attention.batch import build_batch
from sagellm_engine.attention.kinds import FAST, INVARIANT, AttentionKind
from sagellm_engine.attention.protocol import write_pages
from sagellm_engine.attention.reference import reference_attention
from support.sequences import sequence

pytestmark = pytest.mark.acceptance(113)

# (tokens computed before, tokens in this step): decoding at page edges, whole prompts, chunks behind a context
ROWS = [(0, 1), (15, 1), (16, 1), (17, 1), (0, 5), (200, 1), (0, 16), (33, 20), (64, 1), (100, 1), (16, 16), (0, 33)]


@pytest.mark.parametrize("kind", [FAST, INVARIANT], ids=["sdpa", "tiled"])
@pytest.mark.parametrize("group_size", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [ROWS, ROWS[:4], [(0, 40)], [(31, 2)], [(47, 1)]], ids=["mixed", "a", "b", "c", "d"])
def test_equals_reference(
    kind: AttentionKind, group_size: int, dtype: torch.dtype, rows: list[tuple[int, int]]
) -> None:
    """Over pages in any order, in mixed batches, both give the same to rounding."""
    num_kv, head_dim, num_pages = 2, 16, 80
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(num_pages, generator=generator).tolist()
    sequences = []
    for computed, scheduled in rows:
        seq = sequence([1] * (computed + scheduled))
        seq.pages = [order.pop() for _ in range(-(-(computed + scheduled) // 16))]
        seq.num_computed, seq.num_scheduled = computed, scheduled
        sequences.append(seq)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=dtype, generator=generator)

    k_pages, v_pages = noise(num_pages + 1, 16, num_kv, head_dim), noise(num_pages + 1, 16, num_kv, head_dim)
    num_rows = sum(scheduled for _, scheduled in rows)
    q, k, v = noise(num_rows, num_kv * group_size, head_dim), *noise(2, num_rows, num_kv, head_dim)
    batch = build_batch(sequences, num_pages, dtype, torch.device("cpu"))
    write_pages(k, v, k_pages, v_pages, batch)
    kind_batch = kind.build(sequences, num_pages, dtype, torch.device("cpu"))
    fast = kind.attend(q, k, v, k_pages, v_pages, kind_batch)
    slow = reference_attention(q, k, v, k_pages, v_pages, batch)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12 if dtype is torch.float64 else 2e-6)
