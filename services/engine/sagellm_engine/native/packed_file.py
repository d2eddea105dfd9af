"""A file of named parts that is mapped into memory: written once, then shared read-only by all processes of a host."""

import json
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

ALIGNMENT = 4096
MAGIC = b"SAGEPACK"


class PackedFile:
    """Parts by name, at addresses that stay valid as long as the object lives.

    The file is `SAGEPACK`, the length of an index (8 bytes, little endian), the index (JSON: name to offset and
    bytes), and the parts, each at a multiple of 4096 bytes.
    """

    def __init__(self, memory: mmap.mmap, parts: Mapping[str, tuple[int, int]]) -> None:
        self._memory = memory
        self._parts = parts
        self._base = int(np.frombuffer(memory, np.uint8).ctypes.data)

    def __contains__(self, name: str) -> bool:
        """Whether there is such a part."""
        return name in self._parts

    def address(self, name: str) -> int:
        """Return where a part begins in memory."""
        return self._base + self._parts[name][0]

    def size(self, name: str) -> int:
        """Return the bytes of a part."""
        return self._parts[name][1]

    @property
    def num_bytes(self) -> int:
        """Size of the mapping."""
        return len(self._memory)


def open_packed(path: Path) -> PackedFile:
    """Map a file; raises ValueError when it is damaged."""
    with path.open("rb") as file:
        head = file.read(len(MAGIC) + 8)
        if head[: len(MAGIC)] != MAGIC:
            raise ValueError(f"{path} is not a file of packed weights")
        index = json.loads(file.read(int.from_bytes(head[len(MAGIC) :], "little")))
        memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    parts = {name: (int(offset), int(size)) for name, (offset, size) in index.items()}
    if max(offset + size for offset, size in parts.values()) > len(memory):
        raise ValueError(f"{path} is cut short")
    return PackedFile(memory, parts)


def write_packed(path: Path, sizes: Mapping[str, int], fill: Callable[[PackedFile], None]) -> None:
    """Make a file with parts of so many bytes; `fill` writes them in place. Nothing is left behind if it fails."""
    parts, index = _lay_out(sizes)
    total = max(offset + size for offset, size in parts.values())
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("w+b") as file:
            os.posix_fallocate(file.fileno(), 0, total)  # a full disk is an error here, not a fault when it is written
            file.write(MAGIC + len(index).to_bytes(8, "little") + index)
            file.flush()
            memory = mmap.mmap(file.fileno(), total, flags=mmap.MAP_SHARED)
            fill(PackedFile(memory, parts))
            memory.flush()
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def in_memory(sizes: Mapping[str, int], fill: Callable[[PackedFile], None]) -> PackedFile:
    """Make the parts in memory of this process alone, where no file can be written."""
    parts, _ = _lay_out(sizes)
    memory = mmap.mmap(-1, max(offset + size for offset, size in parts.values()), flags=mmap.MAP_PRIVATE)
    packed = PackedFile(memory, parts)
    fill(packed)
    return packed


def _lay_out(sizes: Mapping[str, int]) -> tuple[dict[str, tuple[int, int]], bytes]:
    """Return the parts' places and the index; its length decides where the first part begins."""
    longest = len(json.dumps({name: (1 << 48, size) for name, size in sizes.items()})) + len(MAGIC) + 8
    offset, parts = _aligned(longest), {}
    for name, size in sizes.items():
        parts[name] = (offset, size)
        offset = _aligned(offset + size)
    return parts, json.dumps(parts).encode()


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
