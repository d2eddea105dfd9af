"""The linear layer: the one place that decides how a matrix product is computed."""

import torch.nn.functional as F
from torch import Tensor


class Linear:
    """y = x Wᵀ + b with `weight` [out, in] and `bias` [out] or None; owns both."""

    __slots__ = ("bias", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Map [rows, in] to [rows, out]."""
        return F.linear(x, self.weight, self.bias)
