"""Rotary position embedding, applied to queries and keys at once."""

import torch
from torch import Tensor


def rotation(positions_T: Tensor, inv_freq: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and signed sines, both [T, 1, D], for halves that are rotated against one another."""
    angle = positions_T.to(inv_freq.dtype)[:, None] * inv_freq
    cos, sin = angle.cos(), angle.sin()
    return (
        torch.cat((cos, cos), dim=-1).to(dtype)[:, None],
        torch.cat((-sin, sin), dim=-1).to(dtype)[:, None],
    )


def rotate(x_TND: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Rotate each head's pairs (x[i], x[i + D/2]) by the position's angle."""
    swapped = x_TND.roll(x_TND.shape[-1] // 2, dims=-1)
    return torch.addcmul(x_TND * cos, swapped, signed_sin)
