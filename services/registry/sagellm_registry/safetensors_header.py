"""Headers of safetensors files: read and checked without torch, so that a corrupt file is found before it is loaded.

Format (https://github.com/huggingface/safetensors): 8 bytes little-endian length of the header, the header as JSON
(name → dtype, shape, data_offsets), then the data; offsets count from the end of the header.
"""

import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sagellm_common.errors import InvalidArgument

MAX_HEADER_BYTES = 100_000_000
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Weights:
    """What a safetensors file holds: elements per dtype, and the shape of each tensor."""

    elements: Counter[str]
    shapes: dict[str, tuple[int, ...]]


def read_header(path: Path) -> Weights:
    """Read and check the header of one file; raises InvalidArgument that names a damaged file."""
    try:
        stat = path.stat()
        return _read_header(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=1024)
def _read_header(path: Path, size: int, _mtime_ns: int) -> Weights:
    header, data_bytes = _load(path, size)
    elements: Counter[str] = Counter()
    shapes: dict[str, tuple[int, ...]] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, span = _entry(path, name, entry)
        elements[dtype] += math.prod(shape)
        shapes[name] = shape
        spans.append(span)
    _check_spans(path, spans, data_bytes)
    return Weights(elements, shapes)


def _load(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """Return the header and how many bytes of data follow it."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise InvalidArgument(f"{path} is no safetensors file: its header would have {length} of {size} bytes")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise InvalidArgument(f"{path} is no safetensors file: its header is no JSON") from error
    if not isinstance(header, dict):
        raise InvalidArgument(f"{path} is no safetensors file: its header is no JSON object")
    return header, size - 8 - length


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(extent) for extent in entry["shape"])
        start, end = (int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"{path}: the header's entry of {name[:80]!r} is not understood") from error
    if dtype not in _BITS:
        raise InvalidArgument(f"{path}: {name[:80]!r} has the unknown dtype {dtype[:20]!r}")
    if any(extent < 0 for extent in shape) or (end - start) * 8 != math.prod(shape) * _BITS[dtype]:
        raise InvalidArgument(f"{path}: {name[:80]!r} has {end - start} bytes, not what its shape {shape} needs")
    return dtype, shape, (start, end)


def _check_spans(path: Path, spans: list[tuple[int, int]], data_bytes: int) -> None:
    """The tensors lie one after another without gaps and fill the file, as the format demands."""
    at = 0
    for start, end in sorted(spans):
        if start != at:
            raise InvalidArgument(f"{path}: its tensors overlap or leave gaps at byte {start} of the data")
        at = end
    if at != data_bytes:
        raise InvalidArgument(
            f"{path} has {data_bytes} bytes of data where its header names {at}: it is cut or damaged"
        )
