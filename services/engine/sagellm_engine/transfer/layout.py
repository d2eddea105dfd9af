"""How an engine's pages lie in memory, and what of another engine's can be used here. Addresses only: no bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

PAGED, BLOCKED, TOKENS = "paged", "blocked", "tokens"
"""Orders: planes of keys and of values [page][token][head][dim]; blocks per head as in csrc/kv.h; token ids (mock)."""


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
