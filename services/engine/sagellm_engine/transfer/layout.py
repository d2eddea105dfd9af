"""How an engine's pages lie in memory, and how those of another kind of engine are brought into that form.

The form in between is the wire order: per layer keys and values [2, head, token, dim], and for INT8 a scale per head
and token. All arrays here are views or copies of bytes; nothing knows how they got there.

Legend: L layers, P pages, H key heads, T tokens, D head size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Values = NDArray[Any]

PAGED, BLOCKED, TOKENS = "paged", "blocked", "tokens"
"""Orders: planes of keys and of values [page][token][head][dim]; blocks per head as in csrc/kv.h; token ids (mock)."""

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),
    "float16": np.dtype(np.uint16),
}
SCALED = "int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLayout:
    """The memory of all pages of one engine, and what is in it.

    Page p lies in `num_planes` pieces of `page_bytes` each, at `address` + plane × `plane_bytes` + p × `page_bytes`.
    `model` is the hash of the weights; `keys` names what a backend does to keys before it stores them: only equal ones
    mean the same. `first_head`, `num_heads`: which of the model's key heads are here. `dtype` "int8" has scales.
    """

    model: str
    keys: str
    order: str
    dtype: str
    num_layers: int
    first_head: int
    num_heads: int
    head_dim: int
    page_size: int
    num_pages: int
    address: int
    num_planes: int
    plane_bytes: int
    page_bytes: int
    device: str = "cpu"

    @property
    def num_bytes(self) -> int:
        """Bytes from the first page to the end of the last."""
        return (self.num_planes - 1) * self.plane_bytes + self.num_pages * self.page_bytes


class Region(NamedTuple):
    """Bytes to be copied from one address to another."""

    source: int
    target: int
    num_bytes: int


class WirePages(NamedTuple):
    """Tokens in the wire order: values [L, 2, H, T, D], scales [L, 2, H, T] for INT8."""

    values: Values
    scales: Values | None


def handoff_class(layout: KvLayout, transport: str) -> str:
    """Name what must be equal for engines to hand requests over; pages and orders may differ."""
    return "/".join(map(str, (transport, layout.model, layout.keys, layout.dtype, layout.num_layers, layout.head_dim)))


def why_incompatible(ours: KvLayout, theirs: KvLayout) -> str | None:
    """Return why pages of another engine's cannot be used here, in words, or None."""
    for name in ("model", "keys", "dtype", "num_layers", "head_dim"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        if mine != other:
            return f"{name.replace('_', ' ')} is {other!r} there and {mine!r} here"
    last, their_last = ours.first_head + ours.num_heads, theirs.first_head + theirs.num_heads
    if ours.first_head < theirs.first_head or last > their_last:
        return f"it has key heads {theirs.first_head} to {their_last - 1}, and here are {ours.first_head} to {last - 1}"
    if not is_same_form(ours, theirs) and (TOKENS in (ours.order, theirs.order) or ours.device != "cpu"):
        return (
            f"pages of {theirs.page_size} tokens in the order {theirs.order!r} cannot be brought into "
            f"{ours.order!r} on {ours.device}"
        )
    return None


def is_same_form(ours: KvLayout, theirs: KvLayout) -> bool:
    """Whether pages can be copied byte by byte."""
    names = ("order", "page_size", "first_head", "num_heads", "num_planes", "page_bytes")
    return all(getattr(ours, name) == getattr(theirs, name) for name in names)


def regions(theirs: KvLayout, sources: Sequence[int], ours: KvLayout, targets: Sequence[int]) -> Iterator[Region]:
    """Yield what to copy for pages of the same form, neighbours in one piece."""
    size = ours.page_bytes
    runs = list(_runs(sources, targets))
    for plane in range(ours.num_planes):
        there, here = theirs.address + plane * theirs.plane_bytes, ours.address + plane * ours.plane_bytes
        for source, target, count in runs:
            yield Region(there + source * size, here + target * size, count * size)


def staging_regions(theirs: KvLayout, sources: Sequence[int], address: int) -> Iterator[Region]:
    """Yield what to copy to have pages of another form at `address`, as an array [planes, pages, page bytes]."""
    size, num = theirs.page_bytes, len(sources)
    runs = list(_runs(sources, range(num)))
    for plane in range(theirs.num_planes):
        there, here = theirs.address + plane * theirs.plane_bytes, address + plane * num * size
        for source, place, count in runs:
            yield Region(there + source * size, here + place * size, count * size)


def _runs(sources: Sequence[int], targets: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    start = 0
    for index in range(1, len(sources) + 1):
        steps = index - start
        if index == len(sources) or (sources[index], targets[index]) != (
            sources[start] + steps,
            targets[start] + steps,
        ):
            yield sources[start], targets[start], steps
            start = index


def unpack(layout: KvLayout, pages: Bytes) -> WirePages:
    """Bring pages [planes, P, page bytes] into the wire order; T is P × page size."""
    if layout.order == PAGED:
        shape = (layout.num_layers, 2, pages.shape[1] * layout.page_size, layout.num_heads, layout.head_dim)
        values = pages.view(DTYPES[layout.dtype]).reshape(shape)
        return WirePages(values.transpose(0, 1, 3, 2, 4), None)
    keys, values, scales = _blocks(layout, pages)
    tokens = np.stack([_key_tokens(layout, keys), _value_tokens(layout, values)])  # [2, L, P, H, page size, D]
    return WirePages(
        _flat_tokens(tokens),
        None if scales is None else _flat_tokens(scales.transpose(3, 0, 1, 2, 4)[..., None])[..., 0],
    )


def pack(layout: KvLayout, pages: Bytes, wire: WirePages, first_token: int) -> None:
    """Write tokens in the wire order into pages [planes, P, page bytes], from token `first_token` of them on.

    Raises ValueError for pages that are no contiguous array: they could not be written in place.
    """
    if not pages.flags.c_contiguous:
        raise ValueError("pages must be one contiguous array")
    stop = first_token + wire.values.shape[3]
    if layout.order == PAGED:
        shape = (layout.num_layers, 2, pages.shape[1] * layout.page_size, layout.num_heads, layout.head_dim)
        pages.view(DTYPES[layout.dtype]).reshape(shape)[:, :, first_token:stop] = wire.values.transpose(0, 1, 3, 2, 4)
        return
    keys, values, scales = _blocks(layout, pages)
    size = layout.page_size
    for token in range(first_token, stop):
        page, slot = divmod(token, size)
        column = wire.values[:, :, :, token - first_token]  # [L, 2, H, D]
        if layout.dtype == "bfloat16":
            keys[:, page, :, :, slot] = column[:, 0].reshape(*column.shape[:1], layout.num_heads, -1, 2)
            values[:, page, :, slot // 2, :, slot % 2] = column[:, 1]
        else:
            keys[:, page, :, :, slot] = column[:, 0]
            values[:, page, :, slot] = column[:, 1]
        if scales is not None and wire.scales is not None:
            scales[:, page, :, :, slot] = wire.scales[:, :, :, token - first_token].transpose(0, 2, 1)


def _blocks(layout: KvLayout, pages: Bytes) -> tuple[Values, Values, Values | None]:
    """Return views of blocked pages: keys and values as they lie there (see csrc/kv.h), scales [L, P, H, 2, page size].

    Keys [L, P, H, D, page size], in bf16 [L, P, H, D / 2, page size, 2]; values [L, P, H, page size, D], in bf16
    [L, P, H, page size / 2, D, 2].
    """
    heads, size, dim = layout.num_heads, layout.page_size, layout.head_dim
    blocks = pages.reshape(*pages.shape[:2], heads, -1)
    lead = blocks.shape[:3]
    dtype: np.dtype[Any] = np.dtype(np.int8) if layout.dtype == SCALED else DTYPES[layout.dtype]
    half = size * dim * dtype.itemsize
    keys, values = blocks[..., :half].view(dtype), blocks[..., half : 2 * half].view(dtype)
    if layout.dtype == "bfloat16":
        return keys.reshape(*lead, dim // 2, size, 2), values.reshape(*lead, size // 2, dim, 2), None
    scales = blocks[..., 2 * half :].view(np.float32).reshape(*lead, 2, size) if layout.dtype == SCALED else None
    return keys.reshape(*lead, dim, size), values.reshape(*lead, size, dim), scales


def _key_tokens(layout: KvLayout, keys: Values) -> Values:
    """Return keys [L, P, H, page size, D]."""
    if layout.dtype != "bfloat16":
        return keys.swapaxes(-1, -2)
    return keys.swapaxes(-2, -3).reshape(*keys.shape[:3], layout.page_size, layout.head_dim)


def _value_tokens(layout: KvLayout, values: Values) -> Values:
    """Return values [L, P, H, page size, D]."""
    if layout.dtype != "bfloat16":
        return values
    return values.swapaxes(-1, -2).reshape(*values.shape[:3], layout.page_size, layout.head_dim)


def _flat_tokens(tokens: Values) -> Values:
    """Bring [2, L, P, H, page size, X] into [L, 2, H, P × page size, X]."""
    two, layers, pages, heads, size, width = tokens.shape
    return tokens.transpose(1, 0, 3, 2, 4, 5).reshape(layers, two, heads, pages * size, width)
