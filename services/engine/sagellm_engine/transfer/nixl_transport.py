"""NVIDIA's NIXL as transport: one-sided reads over UCX, between processes and hosts, of CPU and GPU memory.

Without NIXL's own progress thread, which burns half a core when idle, `poll` is what drives the agent, on both sides of
a read.
"""

import contextlib
import logging
import os
import uuid
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from sagellm_common.errors import Unavailable
from sagellm_engine.transfer.layout import Region
from sagellm_engine.transfer.transport import Memory

MISSING = "KV transfer needs the package nixl: pip install 'sagellm[nixl]'"


def is_installed() -> bool:
    """Whether NIXL can be imported."""
    return find_spec("nixl") is not None


class NixlTransport:
    """One agent with UCX. Agents of others are remembered by what they have sent."""

    def __init__(self) -> None:
        self._agent: Any = None
        self._peers: dict[bytes, str] = {}
        self._reads: dict[int, tuple[Any, str, Any]] = {}  # handle: NIXL's own, peer, registered scratch memory
        self._failed: list[int] = []

    def open(self, memory: Memory) -> bytes:
        """Register the memory with a new agent and return the agent's metadata."""
        if not is_installed():
            raise Unavailable(MISSING)
        from nixl._api import nixl_agent, nixl_agent_config

        if "NIXL_LOG_LEVEL" not in os.environ:
            logging.getLogger("nixl").setLevel(logging.WARNING)
        config = nixl_agent_config(enable_prog_thread=False, backends=["UCX"])
        self._agent = nixl_agent(f"sagellm-{os.getpid()}-{uuid.uuid4().hex[:8]}", config)
        self._device = _segment(memory.device)
        self._register(memory)
        return bytes(self._agent.get_agent_metadata())

    def start(self, handle: int, agent: bytes, theirs: str, regions: Sequence[Region], scratch: Memory | None) -> None:
        """Post a read."""
        try:
            self._start(handle, agent, theirs, regions, scratch)
        except Exception:  # NIXL's errors share no base class; nothing was posted, so the read has ended
            self._failed.append(handle)
            self._forget(self._peers.pop(agent, None))

    def _start(self, handle: int, agent: bytes, theirs: str, regions: Sequence[Region], scratch: Memory | None) -> None:
        peer = self._peers.get(agent)
        if peer is None:
            name = self._agent.add_remote_agent(agent)
            peer = self._peers[agent] = name.decode() if isinstance(name, bytes) else str(name)
        registered = None if scratch is None else self._register(scratch)
        (kind, device), (their_kind, their_device) = self._device, _segment(theirs)
        local = self._agent.get_xfer_descs([(r.target, r.num_bytes, device) for r in regions], mem_type=kind)
        remote = self._agent.get_xfer_descs(
            [(r.source, r.num_bytes, their_device) for r in regions], mem_type=their_kind
        )
        posted = self._agent.initialize_xfer("READ", local, remote, peer)
        self._agent.transfer(posted)
        self._reads[handle] = posted, peer, registered

    def poll(self) -> list[tuple[int, bool]]:
        """Ask after every read; the asking is what moves them, and what lets others read from here."""
        ended = [(handle, False) for handle in self._failed]
        self._failed.clear()
        for handle, (posted, _, _) in list(self._reads.items()):
            state = self._state(posted)
            if state != "PROC":
                ended.append((handle, state == "DONE"))
                self._end(handle)
        self._agent.get_new_notifs()
        return ended

    def close(self) -> None:
        """Let the agent go, and with it all reads."""
        self._reads.clear()
        self._peers.clear()
        self._agent = None

    def _state(self, posted: Any) -> str:
        try:
            return str(self._agent.check_xfer_state(posted))
        except Exception:  # the other side is gone: an end like any other
            return "ERR"

    def _end(self, handle: int) -> None:
        posted, _, registered = self._reads.pop(handle)
        with contextlib.suppress(Exception):
            self._agent.release_xfer_handle(posted)
        if registered is not None:
            with contextlib.suppress(Exception):
                self._agent.deregister_memory(registered)

    def _forget(self, peer: str | None) -> None:
        if peer is not None:
            with contextlib.suppress(Exception):
                self._agent.remove_remote_agent(peer)

    def _register(self, memory: Memory) -> Any:
        kind, device = _segment(memory.device)
        return self._agent.register_memory([(memory.address, memory.num_bytes, device, "")], mem_type=kind)


def _segment(device: str) -> tuple[str, int]:
    """Return NIXL's kind of memory and the number of the device."""
    if device == "cpu":
        return "DRAM", 0
    return "VRAM", int(device.partition(":")[2] or 0)
