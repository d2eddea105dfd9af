"""The seam between the hand-off and what carries the bytes."""

import ctypes
import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from sagellm_engine.transfer.layout import KvLayout, Region


class Memory(NamedTuple):
    """A piece of memory on a device."""

    address: int
    num_bytes: int
    device: str = "cpu"


class Transport(Protocol):
    """Reads other engines' memory. All methods are called from one thread and do not wait.

    A read that has been started ends once, in `poll`, when nothing more will be written for it; it cannot be taken
    back.
    """

    def open(self, memory: Memory) -> bytes:
        """Let others read `memory`, and write into it here; return what they need to find it, to be sent to them.

        Raises Unavailable where the transport cannot be used.
        """
        ...

    def start(self, handle: int, agent: bytes, theirs: str, regions: Sequence[Region], scratch: Memory | None) -> None:
        """Copy from the engine that `agent` came from, on its device `theirs`, into the opened memory, or `scratch`."""
        ...

    def poll(self) -> list[tuple[int, bool]]:
        """Drive what is under way, other engines' reads from here included; return the reads that have ended, and
        whether all of their bytes are there."""
        ...

    def close(self) -> None:
        """End all reads and let go of the memory."""
        ...


class InProcessTransport:
    """Copies between engines of one process: for tests, and the model for the others."""

    def __init__(self) -> None:
        self._started: list[tuple[int, bytes, tuple[Region, ...]]] = []

    def open(self, memory: Memory) -> bytes:
        """Return the process id: addresses mean something in one process only."""
        return str(os.getpid()).encode()

    def start(self, handle: int, agent: bytes, theirs: str, regions: Sequence[Region], scratch: Memory | None) -> None:
        """Note what is to be copied."""
        self._started.append((handle, agent, tuple(regions)))

    def poll(self) -> list[tuple[int, bool]]:
        """Copy everything."""
        started, self._started = self._started, []
        return [(handle, _copied(agent, regions)) for handle, agent, regions in started]

    def close(self) -> None:
        """Forget what has not been copied."""
        self._started.clear()


def _copied(agent: bytes, regions: tuple[Region, ...]) -> bool:
    if agent != str(os.getpid()).encode():
        return False
    for region in regions:
        ctypes.memmove(region.target, region.source, region.num_bytes)
    return True


def memory_of(layout: KvLayout) -> Memory:
    """Return the memory of all pages."""
    return Memory(layout.address, layout.num_bytes, layout.device)
