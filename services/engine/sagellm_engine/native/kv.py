"""The memory behind the pages, in the layout of csrc/kv.h."""

import mmap
from collections.abc import Iterable

import numpy as np

from sagellm_engine.kv.pool import PAGE_SIZE
from sagellm_engine.models.config import ModelConfig
from sagellm_engine.native.abi import KvKind
from sagellm_engine.transfer.layout import BLOCKED, KvLayout

BYTES = {KvKind.F32: 4, KvKind.BF16: 2, KvKind.INT8: 1}
DTYPES = {KvKind.F32: "float32", KvKind.BF16: "bfloat16", KvKind.INT8: "int8"}
SCALE_BYTES = 4


def page_bytes(config: ModelConfig, kind: KvKind) -> int:
    """Return the bytes that one page takes over all layers, scales included."""
    return config.num_layers * _layer_page_bytes(config, kind)


def _layer_page_bytes(config: ModelConfig, kind: KvKind) -> int:
    scale = SCALE_BYTES if kind is KvKind.INT8 else 0
    return config.num_kv_heads * 2 * PAGE_SIZE * (config.head_dim * BYTES[kind] + scale)


class NativeKv:
    """Pages of all layers, zero at first; the system provides memory when it is first written."""

    def __init__(self, config: ModelConfig, num_pages: int, kind: KvKind) -> None:
        self.kind = kind
        self.num_pages = num_pages
        self._config = config
        self.num_bytes = page_bytes(config, kind) * num_pages
        self._memory = mmap.mmap(-1, self.num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(self._memory, np.uint8).reshape(config.num_layers, num_pages, -1)
        self.address = int(self._bytes.ctypes.data)

    def layout(self, model: str, keys: str) -> KvLayout:
        """Describe the memory for other engines."""
        config, size = self._config, _layer_page_bytes(self._config, self.kind)
        return KvLayout(
            model=model,
            keys=keys,
            order=BLOCKED,
            dtype=DTYPES[self.kind],
            num_layers=config.num_layers,
            first_head=0,
            num_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            page_size=PAGE_SIZE,
            num_pages=self.num_pages,
            address=self.address,
            num_planes=config.num_layers,
            plane_bytes=self.num_pages * size,
            page_bytes=size,
        )

    def clear(self, pages: Iterable[int]) -> None:
        """Set pages to zero."""
        for page in pages:
            self._bytes[:, page] = 0
