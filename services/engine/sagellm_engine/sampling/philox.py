"""Philox4x32-10, a counter-based random generator (Salmon, Moraes, Dror, Shaw 2011, "Random123").

Words are 32-bit unsigned integers held in int64 tensors, so that the same integers come out on any device.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


class Words(NamedTuple):
    """Four words of 32 bits; tensors that broadcast against one another."""

    w0: Tensor
    w1: Tensor
    w2: Tensor
    w3: Tensor


def philox(counter: Words, key_0: Tensor, key_1: Tensor) -> Words:
    """Return the four random words of each counter under each key (low and high half of a 64-bit key)."""
    c0, c1, c2, c3 = counter
    for _ in range(ROUNDS):
        # a product of two 32-bit words may overflow int64; its 64 bits are right all the same
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0 = ((product_1 >> 32) & _LOW) ^ c1 ^ key_0
        c2 = ((product_0 >> 32) & _LOW) ^ c3 ^ key_1
        c1, c3 = product_1 & _LOW, product_0 & _LOW
        key_0, key_1 = (key_0 + _WEYL_0) & _LOW, (key_1 + _WEYL_1) & _LOW
    return Words(c0, c1, c2, c3)


def uniform(words: Tensor) -> Tensor:
    """Map words to fp32 numbers in (0, 1): ((r >> 9) + 0.5) · 2⁻²³, exact, never 0 or 1."""
    return ((words >> 9).to(torch.float32) + 0.5) * 2.0**-23
