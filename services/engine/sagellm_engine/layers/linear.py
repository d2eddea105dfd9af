"""The linear layer: the one place that decides how a matrix product is computed."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

PACK_ROWS = 32
"""The row count that oneDNN's layout is chosen for; measured, it costs nothing at others from 1 to 512."""


class Linear(Protocol):
    """y = x Wᵀ + b for `x` [rows, in]; owns its weight [out, in] and bias [out]."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map [rows, in] to [rows, out]."""
        ...


MakeLinear = Callable[[Tensor, Tensor | None], Linear]
"""Makes a linear layer of a weight [out, in] and a bias [out] or None, and may keep either."""


class PlainLinear:
    """The product as torch computes it, on any device and in any type."""

    __slots__ = ("bias", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Map [rows, in] to [rows, out]."""
        return F.linear(x, self.weight, self.bias)


class PackedLinear:
    """The product over a weight in oneDNN's own layout, for fp32 on a CPU.

    Two to three times as fast as `PlainLinear` from 2 to 128 rows, where torch's product does not reach the memory's
    speed. Keeps the packed weight alone.
    """

    __slots__ = ("bias", "packed")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACK_ROWS)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Map [rows, in] to [rows, out]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return out


def linear_for(device: torch.device, dtype: torch.dtype) -> MakeLinear:
    """Return the fastest kind of linear layer for a device and a type."""
    packed = device.type == "cpu" and dtype is torch.float32 and torch._C._has_mkldnn
    return PackedLinear if packed else PlainLinear
