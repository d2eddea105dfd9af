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
    """With outliers folded in and shared out, attention's values and the feed-forward give what they gave."""
    layer = random_layer(config)
    x = torch.randn(7, config.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gains = (torch.rand(config.hidden_size, dtype=torch.float64) + 0.5, torch.rand(config.hidden_size).double() + 0.5)
    gains[0][3], gains[1][5], gains[1][6] = 64.0, -100.0, 0.0
    before = outcome(layer, x, gains, config)
    smooth(layer, *gains, config)
    assert max(gain.abs().max() for gain in gains) < 2
    for ours, expected in zip(outcome(layer, x, gains, config), before, strict=True):
        torch.testing.assert_close(ours, expected)


def test_outlier_channels_are_shared_out(config: ModelConfig) -> None:
    """After smoothing an outlier channel's weights are in proportion, and the others are what they were."""
    layer, before = random_layer(config), random_layer(config)
    inner = config.intermediate_size
    smooth(layer, torch.ones(config.hidden_size), torch.ones(config.hidden_size), config)
    produced, consumed = layer.gate_up[inner:].abs().amax(1), layer.down.abs().amax(0)
    others = torch.arange(inner) != 3
    usual = (consumed / produced)[others].median()
    torch.testing.assert_close(consumed[3] / produced[3], usual, rtol=0.01, atol=0)
    torch.testing.assert_close(layer.down[:, others], before.down[:, others])


def test_dead_channels_are_left_alone() -> None:
    """A channel that is zero on one side is not scaled by infinity."""
    producer, consumer = torch.ones(3, 2), torch.ones(4, 3)
    producer[0], consumer[:, 1] = 0, 0
    assert channel_scale(producer, consumer).tolist() == [1.0, 1.0, 1.0]


def test_only_outliers_are_scaled() -> None:
    """A channel within the factor of the median keeps its scale; one beyond it gets the usual proportion."""
    producer, consumer = torch.ones(5, 2), torch.ones(4, 5)
    producer[1], producer[2] = 3.0, 100.0
    assert channel_scale(producer, consumer).tolist() == pytest.approx([1.0, 1.0, 0.1, 1.0, 1.0])
