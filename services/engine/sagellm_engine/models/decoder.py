"""A decoder of the Llama kind over paged keys and values.

Legend: T rows of the step, H hidden size, N query heads, K key/value heads, D head size, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sagellm_engine.attention.protocol import Attention, StepLayout, write_pages
from sagellm_engine.kv.cache import KvCache
from sagellm_engine.layers.norm import rms_norm
from sagellm_engine.layers.rotary import rotate, rotation
from sagellm_engine.models.config import ModelConfig
from sagellm_engine.models.rope import inverse_frequencies
from sagellm_engine.weights.decoder import DecoderWeights, LayerWeights


class Decoder:
    """Runs one step for any family of the table. Owns the weights; pages are the caller's."""

    def __init__(self, config: ModelConfig, weights: DecoderWeights, attention: Attention[Any]) -> None:
        self._config = config
        self._weights = weights
        self._attention = attention
        frequencies = inverse_frequencies(config.rope, config.head_dim)
        rope_dtype = torch.float64 if weights.norm.dtype is torch.float64 else torch.float32
        self._inv_freq = torch.tensor(frequencies, dtype=rope_dtype, device=weights.norm.device)

    def forward(self, tokens_T: Tensor, positions_T: Tensor, cache: KvCache, batch: StepLayout) -> Tensor:
        """Compute a step's hidden states [T, H] before the last norm; writes the rows' keys and values."""
        weights, eps = self._weights, self._config.rms_norm_eps
        residual = weights.embedding[tokens_T]
        turn = rotation(positions_T, self._inv_freq, residual.dtype)
        for layer, pages in zip(weights.layers, cache.layers, strict=True):
            x = rms_norm(residual, layer.input_norm, eps)
            residual = residual + self._attend(layer, x, turn, pages, batch)
            x = rms_norm(residual, layer.post_norm, eps)
            gate, up = layer.gate_up(x).chunk(2, dim=-1)
            residual = residual + layer.down(F.silu(gate) * up)
        return residual

    def logits(self, hidden_RH: Tensor) -> Tensor:
        """Map hidden states to logits [R, V] in fp32 (or wider, where the weights are)."""
        x = rms_norm(hidden_RH, self._weights.norm, self._config.rms_norm_eps)
        logits = self._weights.lm_head(x)
        return logits if logits.dtype.itemsize >= torch.float32.itemsize else logits.float()

    def _attend(
        self,
        layer: LayerWeights,
        x_TH: Tensor,
        turn: tuple[Tensor, Tensor],
        pages: tuple[Tensor, Tensor],
        batch: StepLayout,
    ) -> Tensor:
        config = self._config
        num_heads, num_kv = config.num_heads, config.num_kv_heads
        qkv = layer.qkv(x_TH).view(len(x_TH), num_heads + 2 * num_kv, config.head_dim)
        qk, v = qkv[:, : num_heads + num_kv], qkv[:, num_heads + num_kv :]
        if layer.q_norm is not None and layer.k_norm is not None:
            q = rms_norm(qk[:, :num_heads], layer.q_norm, config.rms_norm_eps)
            k = rms_norm(qk[:, num_heads:], layer.k_norm, config.rms_norm_eps)
            qk = torch.cat((q, k), dim=1)
        qk = rotate(qk, *turn)
        q, k = qk[:, :num_heads], qk[:, num_heads:]
        write_pages(k, v, *pages, batch)
        out = self._attention(q, k, v, *pages, batch)
        return layer.o(out.view(len(x_TH), -1))
