"""Smoothing changes how weights can be quantized, not what a layer computes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sagellm_engine.models.config import ModelConfig, read_model_config
from sagellm_engine.native.smoothing import LayerTensors, channel_scale, smooth
from support.tiny_models import make_tiny_model


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    """Give a shape with groups of three query heads."""
    make_tiny_model("llama", tmp_path)
    return replace(read_model_config(tmp_path), qkv_bias=True, mlp_bias=True)


def random_layer(config: ModelConfig) -> LayerTensors:
    """Make a layer with a few outlier channels."""
    generator = torch.Generator().manual_seed(0)
    hidden, inner, heads = config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    layer = LayerTensors(
        noise(heads + 2 * kv, hidden),
        noise(hidden, heads),
        noise(2 * inner, hidden),
        noise(hidden, inner),
        noise(heads + 2 * kv),
        noise(2 * inner),
    )
    layer.gate_up[inner + 3] *= 64
    layer.qkv[heads + kv + 5] *= 64
    return layer


def outcome(layer: LayerTensors, x: Tensor, gains: tuple[Tensor, Tensor], config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Compute what values and feed-forward contribute, queries and keys aside."""
    assert layer.qkv_bias is not None
    assert layer.gate_up_bias is not None
    kv = config.num_kv_heads * config.head_dim
    first = config.num_heads * config.head_dim + kv
    values = (x * gains[0]) @ layer.qkv[first:].T + layer.qkv_bias[first:]
    group = config.num_heads // config.num_kv_heads
    heads = values.view(-1, config.num_kv_heads, 1, config.head_dim).expand(-1, -1, group, -1).flatten(1)
    gate, up = ((x * gains[1]) @ layer.gate_up.T + layer.gate_up_bias).chunk(2, dim=1)
    return heads @ layer.o.T, (torch.nn.functional.silu(gate) * up) @ layer.down.T


def test_the_layer_computes_the_same(config: ModelConfig) -> None:
    """With gains folded in and channels balanced, attention's values and the feed-forward give what they gave."""
    layer = random_layer(config)
    x = torch.randn(7, config.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gains = (torch.rand(config.hidden_size, dtype=torch.float64) + 0.5, torch.rand(config.hidden_size).double() + 0.5)
    before = outcome(layer, x, gains, config)
    smooth(layer, *gains, config)
    ones = (torch.ones_like(gains[0]), torch.ones_like(gains[1]))
    for ours, expected in zip(outcome(layer, x, ones, config), before, strict=True):
        torch.testing.assert_close(ours, expected)


def test_outlier_channels_are_shared_out(config: ModelConfig) -> None:
    """After smoothing no channel's weights stand out on either side."""
    layer = random_layer(config)
    inner = config.intermediate_size
    smooth(layer, torch.ones(config.hidden_size), torch.ones(config.hidden_size), config)
    produced, consumed = layer.gate_up[inner:].abs().amax(1), layer.down.abs().amax(0)
    torch.testing.assert_close(produced, consumed)


def test_dead_channels_are_left_alone() -> None:
    """A channel that is zero on one side is not scaled by infinity."""
    producer, consumer = torch.ones(3, 2), torch.ones(4, 3)
    producer[0], consumer[:, 1] = 0, 0
    assert channel_scale(producer, consumer).tolist() == [1.0, 1.0, 1.0]
