"""Attention through torch's scaled_dot_product_attention, with the heads of a group as rows of one key head."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sagellm_engine.attention.batch import AttentionBatch, DecodeGroup, PrefillChunk


def sdpa_attention(
    q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, k_pages: Tensor, v_pages: Tensor, batch: AttentionBatch
) -> Tensor:
    """Decode whole groups in one call each, prefill chunk by chunk; see `Attention`."""
    out = torch.empty_like(q_TND)
    for group in batch.decode:
        out[group.rows] = _decode(q_TND[group.rows], k_pages, v_pages, group)
    for chunk in batch.prefill:
        rows = slice(chunk.start, chunk.stop)
        out[rows] = _prefill(q_TND[rows], k_TKD[rows], v_TKD[rows], k_pages, v_pages, chunk)
    return out


def _decode(q_BND: Tensor, k_pages: Tensor, v_pages: Tensor, group: DecodeGroup) -> Tensor:
    num_kv, head_dim = k_pages.shape[2:]
    batch = len(q_BND)
    q_BKGD = q_BND.view(batch, num_kv, -1, head_dim)
    flat = group.pages.view(-1)
    k_BKLD = k_pages.index_select(0, flat).view(batch, -1, num_kv, head_dim).transpose(1, 2)
    v_BKLD = v_pages.index_select(0, flat).view(batch, -1, num_kv, head_dim).transpose(1, 2)
    out = F.scaled_dot_product_attention(q_BKGD, k_BKLD, v_BKLD, attn_mask=group.mask)
    return out.reshape(batch, -1, head_dim)


def _prefill(
    q_nND: Tensor, k_nKD: Tensor, v_nKD: Tensor, k_pages: Tensor, v_pages: Tensor, chunk: PrefillChunk
) -> Tensor:
    num_kv, head_dim = k_pages.shape[2:]
    if chunk.pages is not None:
        k_nKD = k_pages.index_select(0, chunk.pages).flatten(0, 1)
        v_nKD = v_pages.index_select(0, chunk.pages).flatten(0, 1)
    q_KGnD = q_nND.view(len(q_nND), num_kv, -1, head_dim).permute(1, 2, 0, 3)
    k_KGLD = k_nKD.transpose(0, 1)[:, None].expand(-1, q_KGnD.shape[1], -1, -1)
    v_KGLD = v_nKD.transpose(0, 1)[:, None].expand(-1, q_KGnD.shape[1], -1, -1)
    out = F.scaled_dot_product_attention(q_KGnD, k_KGLD, v_KGLD, attn_mask=chunk.mask, is_causal=chunk.mask is None)
    return out.permute(2, 0, 1, 3).reshape(q_nND.shape)
