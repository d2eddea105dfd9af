"""The linear layer: the one place that decides how a matrix product is computed."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

ROW_TILE = 16


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


class TiledLinear:
    """The product in tiles of 16 rows, so that a row's bits do not depend on how many rows there are.

    For a CPU, where torch chooses another order of summation for every number of rows. In fp32 the weight is kept in
    oneDNN's own layout alone, which is two to three times as fast as torch's.
    """

    __slots__ = ("_bias", "_packed", "_weight")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed = weight.dtype is torch.float32 and torch._C._has_mkldnn
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROW_TILE) if self._packed else weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Map [rows, in] to [rows, out]."""
        num_rows = len(x)
        missing = -num_rows % ROW_TILE
        if missing:
            x = F.pad(x, (0, 0, 0, missing))
        tiles = [self._multiply(x[start : start + ROW_TILE]) for start in range(0, len(x), ROW_TILE)]
        return (tiles[0] if len(tiles) == 1 else torch.cat(tiles))[:num_rows]

    def _multiply(self, x: Tensor) -> Tensor:
        if not self._packed:
            return F.linear(x, self._weight, self._bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return out


def linear_for(device: torch.device) -> MakeLinear:
    """Return the kind of linear layer for a device."""
    return TiledLinear if device.type == "cpu" else PlainLinear
