"""Brings the channels of keys to about one size, so that INT8 pages lose little where some stand out.

A key channel that is larger than the others (Qwen2's biases make such) takes the precision of a token's whole key. What
it is multiplied with here, its queries are divided by: the scores stay the same. The factors are powers of two, so that
nothing is rounded and every precision may use them; the channels that rotary embeddings turn into each other share one.

Legend: K key heads, D head size, I inputs, O outputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sagellm_engine.models.config import ModelConfig

MAX_EXPONENT = 8


def even_keys(
    weight_OI: Tensor, bias_O: Tensor | None, gain_I: Tensor, qk_gains: Sequence[Tensor], config: ModelConfig
) -> None:
    """Scale keys, and queries by the inverse, in place: the gains [D] of their norms where they have such, else rows.

    `weight_OI` has the rows of q, k, v one below the other; `gain_I` is that of the norm before. Nothing changes where
    the weight's type cannot hold what comes out.
    """
    num_kv, dim = config.num_kv_heads, config.head_dim
    first, last = config.num_heads * dim, (config.num_heads + num_kv) * dim
    size_KD = (weight_OI[first:last].float() * gain_I).norm(dim=1).view(num_kv, dim)
    if bias_O is not None:
        size_KD += bias_O[first:last].abs().view(num_kv, dim)
    if qk_gains:
        query_gain_D, key_gain_D = qk_gains
        factor_D = channel_factors((size_KD.amax(dim=0) * key_gain_D.abs())[None])[0]
        key_gain_D *= factor_D
        query_gain_D /= factor_D
        return
    factor_KD = channel_factors(size_KD)
    factor_O = torch.ones(len(weight_OI))
    factor_O[:first] = (1 / factor_KD).repeat_interleave(config.num_heads // num_kv, dim=0).flatten()
    factor_O[first:last] = factor_KD.flatten()
    column = factor_O.to(weight_OI.dtype)[:, None]
    if torch.equal(weight_OI * column / column, weight_OI):
        weight_OI *= column
        if bias_O is not None:
            bias_O *= factor_O


def channel_factors(size_KD: Tensor) -> Tensor:
    """Return the powers of two that bring channels of these sizes near the median of their head."""
    pair = size_KD.reshape(len(size_KD), 2, -1).amax(dim=1)
    exponent = torch.log2(pair.median(dim=1, keepdim=True).values / pair).round()
    exponent = torch.where(torch.isfinite(exponent), exponent.clamp(-MAX_EXPONENT, MAX_EXPONENT), 0.0)
    return torch.exp2(exponent).repeat(1, 2)
