"""The memory behind the pages: keys and values of every layer."""

import mmap
from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor

from sagellm_engine.kv.pool import PAGE_SIZE
from sagellm_engine.models.config import ModelConfig
from sagellm_engine.transfer.layout import PAGED, KvLayout


def page_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes that one page takes over all layers."""
    return 2 * config.num_layers * PAGE_SIZE * config.num_kv_heads * config.head_dim * dtype.itemsize


class KvCache:
    """Per layer keys and values [pages + 1, 16, K, D]. The last page is the null page, which stays zero.

    Pages are finite from the start, since what a mask leaves out is still multiplied by zero.
    """

    def __init__(self, config: ModelConfig, num_pages: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (config.num_layers, 2, num_pages + 1, PAGE_SIZE, config.num_kv_heads, config.head_dim)
        self._data = (
            _lazy_zeros(shape, dtype) if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)
        )
        self.layers: list[tuple[Tensor, Tensor]] = [(layer[0], layer[1]) for layer in self._data]
        self.null_page = num_pages
        self._config = config

    def layout(self, model: str) -> KvLayout:
        """Describe the memory for other engines."""
        config, data = self._config, self._data
        size = data[0, 0, 0].nbytes
        return KvLayout(
            model=model,
            keys="plain",
            order=PAGED,
            dtype=str(data.dtype).removeprefix("torch."),
            num_layers=config.num_layers,
            first_head=0,
            num_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            page_size=PAGE_SIZE,
            num_pages=self.null_page,
            address=data.data_ptr(),
            num_planes=2 * config.num_layers,
            plane_bytes=(self.null_page + 1) * size,
            page_bytes=size,
            device=str(data.device),
        )

    def clear(self, pages: Iterable[int]) -> None:
        """Set pages to zero."""
        for page in pages:
            self._data[:, :, page] = 0


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return zeros in memory that the system provides page by page when first written (torch.zeros writes it all)."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    buffer = mmap.mmap(-1, prod(shape) * dtype.itemsize, flags=flags)  # lives as long as the tensor
    return torch.frombuffer(buffer, dtype=dtype).view(shape)
