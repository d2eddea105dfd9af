"""Makes a layer easier to quantize without changing what it computes.

Where a channel of a norm's gain stands out, what it has over the median is multiplied into the weight behind it, so
that activations are quantized before it spreads them. Where one linear layer feeds another channel by channel, a
channel whose scales on the two sides are out of the usual proportion gets it (after cross-layer equalization: Nagel et
al. 2019, arXiv:1906.04721). Channels within a factor of OUTLIER of the median stay as they are: moving all of them
costs INT4 more than it gives (docs/engine.md).

Legend: C channels between two layers, I inputs, O outputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sagellm_engine.models.config import ModelConfig

OUTLIER = 4.0


@dataclass(slots=True)
class LayerTensors:
    """One layer's weights [out, in] and biases in fp32, those of q, k, v and of gate, up one below the other."""

    qkv: Tensor
    o: Tensor
    gate_up: Tensor
    down: Tensor
    qkv_bias: Tensor | None
    gate_up_bias: Tensor | None


def smooth(layer: LayerTensors, input_gain: Tensor, post_gain: Tensor, config: ModelConfig) -> None:
    """Fold the gains' outliers in and equalize values with the output projection, up with down; gains too in place."""
    _fold(input_gain, layer.qkv)
    _fold(post_gain, layer.gate_up)
    _smooth_values(layer, config)
    inner = config.intermediate_size
    scale = channel_scale(layer.gate_up[inner:], layer.down)
    layer.gate_up[inner:] *= scale[:, None]
    layer.down /= scale
    if layer.gate_up_bias is not None:
        layer.gate_up_bias[inner:] *= scale


def _fold(gain: Tensor, weight: Tensor) -> None:
    """Move the outliers of a gain [I] into the weight [O, I] behind it."""
    typical = gain.abs().median()
    if typical > 0:
        stands_out = _stands_out(gain.abs() / typical)
        weight *= torch.where(stands_out, gain / typical, 1.0)
        gain[stands_out] = typical


def _stands_out(relative: Tensor) -> Tensor:
    return (relative > OUTLIER) | (relative < 1 / OUTLIER)


def _smooth_values(layer: LayerTensors, config: ModelConfig) -> None:
    """Value channels of a key head feed the same channels of all query heads of its group."""
    num_kv, head_dim = config.num_kv_heads, config.head_dim
    first = (config.num_heads + num_kv) * head_dim
    by_group = layer.o.view(len(layer.o), num_kv, -1, head_dim)
    largest = by_group.abs().amax(dim=(0, 2)).flatten()
    scale = _balance(layer.qkv[first:].abs().amax(dim=1), largest)
    layer.qkv[first:] *= scale[:, None]
    by_group /= scale.view(num_kv, 1, head_dim)
    if layer.qkv_bias is not None:
        layer.qkv_bias[first:] *= scale


def channel_scale(producer_CI: Tensor, consumer_OC: Tensor) -> Tensor:
    """Return the factor [C] for the producer's rows, whose inverse belongs to the consumer's columns."""
    return _balance(producer_CI.abs().amax(dim=1), consumer_OC.abs().amax(dim=0))


def _balance(produced_C: Tensor, consumed_C: Tensor) -> Tensor:
    scale = (consumed_C / produced_C).sqrt()
    usable = torch.isfinite(scale) & (scale > 0)
    relative = scale / scale[usable].median() if usable.any() else scale
    return torch.where(usable & _stands_out(relative), relative, 1.0)
