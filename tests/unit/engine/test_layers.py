"""The parts of a model against their definitions."""

import math

import pytest
import torch

from sagellm_engine.layers.linear import PlainLinear, TiledLinear, linear_for
from sagellm_engine.layers.norm import rms_norm
from sagellm_engine.layers.rotary import rotate, rotation


def noise(*shape: int) -> torch.Tensor:
    """Return random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("num_rows", [1, 2, 7, 33, 200])
def test_tiled_linear_equals_plain(num_rows: int, with_bias: bool) -> None:
    """The tiled product is the plain one to rounding, for any number of rows."""
    weight, bias, x = noise(100, 72), noise(100) if with_bias else None, noise(num_rows, 72)
    with torch.inference_mode():
        fast, slow = TiledLinear(weight.clone(), bias)(x), PlainLinear(weight, bias)(x)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-4)


def test_linear_is_chosen_by_device() -> None:
    """Tiles are for a CPU."""
    assert linear_for(torch.device("cpu")) is TiledLinear
    assert linear_for(torch.device("cuda")) is PlainLinear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype: torch.dtype) -> None:
    """The norm is x / sqrt(mean(x²) + eps) · weight, computed in fp32."""
    x, weight = noise(5, 48).to(dtype), noise(48).to(dtype)
    wide = x.double()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight.double()
    torch.testing.assert_close(
        rms_norm(x, weight, 1e-3).double(), expected, rtol=2e-2 if x.element_size() < 4 else 1e-5, atol=1e-5
    )


def test_rotation_turns_pairs_by_the_position() -> None:
    """Each pair (x[i], x[i + D/2]) is turned by position × frequency; position 0 turns nothing."""
    frequencies = [1.0, 0.25]
    x = noise(2, 1, 4)
    turned = rotate(x, *rotation(torch.tensor([0, 3]), torch.tensor(frequencies), torch.float32))
    torch.testing.assert_close(turned[0], x[0])
    for i, frequency in enumerate(frequencies):
        cos, sin = math.cos(3 * frequency), math.sin(3 * frequency)
        first, second = float(x[1, 0, i]), float(x[1, 0, i + 2])
        assert float(turned[1, 0, i]) == pytest.approx(first * cos - second * sin, abs=1e-5)
        assert float(turned[1, 0, i + 2]) == pytest.approx(second * cos + first * sin, abs=1e-5)
