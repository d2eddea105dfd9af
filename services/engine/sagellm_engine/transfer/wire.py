"""Pages of another form of memory brought into ours, by way of the wire order.

That is per layer keys and values [2, head, token, dim], and for INT8 a scale per head and token. All arrays here are
views or copies of bytes; nothing knows how they got there.

Legend: L layers, P pages, H key heads, T tokens, D head size.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sagellm_engine.transfer.layout import PAGED, KvLayout

Bytes = NDArray[np.uint8]
Values = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),
    "float16": np.dtype(np.uint16),
}
SCALED = "int8"


class WirePages(NamedTuple):
    """Tokens in the wire order: values [L, 2, H, T, D], scales [L, 2, H, T] for INT8."""

    values: Values
    scales: Values | None


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
