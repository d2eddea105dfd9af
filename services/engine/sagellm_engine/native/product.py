"""Single products with packed weights, on the calling thread: for tests and measurements."""

import ctypes

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagellm_engine.native.abi import Compute, Linear, WeightKind
from sagellm_engine.native.library import library

DTYPES = {torch.float32: WeightKind.F32, torch.bfloat16: WeightKind.BF16, torch.float16: WeightKind.F16}
ROOM = 1 << 17


class PackedWeight:
    """A weight [out, in] packed in one way, multiplied by the library."""

    def __init__(
        self, weight: Tensor, kind: WeightKind, bias: Tensor | None = None, *, interleaved: bool = False
    ) -> None:
        self.num_out, num_in = weight.shape
        width = library().sage_panel_width()
        room = -(-self.num_out // width) * width + width
        self._scale, self._sums = torch.zeros(room), torch.zeros(room, dtype=torch.int32)
        self._bias = torch.zeros(room)
        if bias is not None:
            self._bias[: len(bias)] = bias
        self._struct = Linear(
            kind=kind,
            num_in=num_in,
            num_out=self.num_out,
            scale=self._scale.data_ptr(),
            sums=self._sums.data_ptr(),
            bias=self._bias.data_ptr() if bias is not None else None,
        )
        self._memory = aligned(library().sage_packed_bytes(ctypes.byref(self._struct)))
        self._struct.weight = self._memory.ctypes.data
        library().sage_pack(ctypes.byref(self._struct), weight.data_ptr(), DTYPES[weight.dtype], interleaved)

    def __call__(self, x: Tensor, compute: Compute = Compute.F32) -> Tensor:
        """Return x · wᵀ + bias for rows [rows, in]."""
        out = torch.empty(len(x), self.num_out)
        scratch = aligned(len(x) * (x.shape[1] + 32) * 8 + ROOM)
        library().sage_linear(
            ctypes.byref(self._struct), compute, len(x), x.data_ptr(), out.data_ptr(), scratch.ctypes.data
        )
        return out


def aligned(num_bytes: int) -> NDArray[np.uint8]:
    """Return memory that begins on a cache line."""
    memory = np.zeros(num_bytes + 64, np.uint8)
    start = -int(memory.ctypes.data) % 64
    return memory[start : start + num_bytes]
