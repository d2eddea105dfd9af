"""Reads of another engine's pages into ours, brought into our form where theirs is another."""

import ctypes
from dataclasses import dataclass

import numpy as np

from sagellm_engine.transfer.layout import KvLayout, is_same_form, regions, staging_regions
from sagellm_engine.transfer.transport import Memory, Transport
from sagellm_engine.transfer.wire import Bytes, WirePages, pack, unpack


@dataclass(frozen=True, slots=True)
class PageRead:
    """What to read: from the engine that `agent` came from, its pages `sources`, which follow `first` others of the
    prompt; into `pages`, which are all of the prompt's here."""

    handle: int
    agent: bytes
    theirs: KvLayout
    first: int
    sources: tuple[int, ...]
    pages: tuple[int, ...]


class PageReads:
    """Starts reads of compatible pages (see `why_incompatible`) and finishes them."""

    def __init__(self, transport: Transport, ours: KvLayout) -> None:
        self._transport, self._ours = transport, ours
        self._staged: dict[int, tuple[PageRead, Bytes]] = {}
        self._memory = _planes(ours) if ours.device == "cpu" else None
        self.num_under_way = 0

    def start(self, read: PageRead) -> None:
        """Begin to read."""
        theirs = read.theirs
        self.num_under_way += 1
        if is_same_form(self._ours, theirs):
            targets = read.pages[read.first : read.first + len(read.sources)]
            parts = list(regions(theirs, read.sources, self._ours, targets))
            self._transport.start(read.handle, read.agent, theirs.device, parts, None)
            return
        staging = np.empty((theirs.num_planes, len(read.sources), theirs.page_bytes), np.uint8)
        self._staged[read.handle] = read, staging
        address = int(staging.ctypes.data)
        parts = list(staging_regions(theirs, read.sources, address))
        self._transport.start(read.handle, read.agent, theirs.device, parts, Memory(address, staging.nbytes))

    def poll(self) -> list[tuple[int, bool]]:
        """Return the reads that have ended; those that are all right are in our pages, in our form."""
        ended = self._transport.poll()
        self.num_under_way -= len(ended)
        for handle, ok in ended:
            staged = self._staged.pop(handle, None)
            if staged is not None and ok:
                self._repack(*staged)
        return ended

    def forget(self) -> None:
        """Forget all reads: their transport has been closed."""
        self._staged.clear()
        self.num_under_way = 0

    def _repack(self, read: PageRead, staging: Bytes) -> None:
        ours, theirs, memory = self._ours, read.theirs, self._memory
        if memory is None:
            raise RuntimeError("pages can only be brought into another form in the memory of a CPU")
        wire = _our_heads(ours, theirs, unpack(theirs, staging))
        first, room = read.first * theirs.page_size, len(read.pages) * ours.page_size
        wire = _first_tokens(wire, room - first)
        touched = range(first // ours.page_size, -(-(first + wire.values.shape[3]) // ours.page_size))
        pages = [read.pages[index] for index in touched]
        content = np.take(memory, pages, axis=1)
        pack(ours, content, wire, first - touched.start * ours.page_size)
        memory[:, pages] = content


def _planes(layout: KvLayout) -> Bytes:
    """Return an engine's memory as [planes, pages, page bytes]."""
    buffer = (ctypes.c_uint8 * layout.num_bytes).from_address(layout.address)
    shape = layout.num_planes, layout.num_pages, layout.page_bytes
    strides = layout.plane_bytes, layout.page_bytes, 1
    return np.lib.stride_tricks.as_strided(np.ctypeslib.as_array(buffer), shape, strides)


def _our_heads(ours: KvLayout, theirs: KvLayout, wire: WirePages) -> WirePages:
    start = ours.first_head - theirs.first_head
    heads = slice(start, start + ours.num_heads)
    return WirePages(wire.values[:, :, heads], None if wire.scales is None else wire.scales[:, :, heads])


def _first_tokens(wire: WirePages, num_tokens: int) -> WirePages:
    """Leave out what the other's last page holds beyond ours."""
    return WirePages(
        wire.values[:, :, :, :num_tokens], None if wire.scales is None else wire.scales[:, :, :, :num_tokens]
    )
