"""The slow twin: attention written out, one sequence at a time, in float64."""

import torch
from torch import Tensor

from sagellm_engine.attention.batch import AttentionBatch


def reference_attention(
    q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, k_pages: Tensor, v_pages: Tensor, batch: AttentionBatch
) -> Tensor:
    """Compute softmax(q kᵀ / √D) v row by row from the definition; see `Attention`."""
    out = torch.empty_like(q_TND)
    for group in batch.decode:
        rows = torch.arange(len(q_TND), device=q_TND.device)[group.rows].tolist()
        for i, row in enumerate(rows):
            length = int((group.mask[i, 0, 0] == 0).sum())
            out[row] = _attend(q_TND[row], k_pages, v_pages, group.pages[i], length)
    for chunk in batch.prefill:
        for row in range(chunk.start, chunk.stop):
            if chunk.pages is None:
                keys, values = k_TKD[chunk.start : row + 1], v_TKD[chunk.start : row + 1]
                out[row] = _softmax_average(q_TND[row], keys, values)
            else:
                length = chunk.num_context + row - chunk.start + 1
                out[row] = _attend(q_TND[row], k_pages, v_pages, chunk.pages, length)
    return out


def _attend(q_ND: Tensor, k_pages: Tensor, v_pages: Tensor, pages: Tensor, length: int) -> Tensor:
    keys = k_pages[pages].flatten(0, 1)[:length]
    values = v_pages[pages].flatten(0, 1)[:length]
    return _softmax_average(q_ND, keys, values)


def _softmax_average(q_ND: Tensor, keys_LKD: Tensor, values_LKD: Tensor) -> Tensor:
    groups = q_ND.shape[0] // keys_LKD.shape[1]
    keys = keys_LKD.double().repeat_interleave(groups, dim=1)
    values = values_LKD.double().repeat_interleave(groups, dim=1)
    scores = torch.einsum("nd,lnd->nl", q_ND.double(), keys) / q_ND.shape[-1] ** 0.5
    return torch.einsum("nl,lnd->nd", scores.softmax(dim=-1), values).to(q_ND.dtype)
