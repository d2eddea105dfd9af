"""Figures of all engines side by side, so that a decision among a thousand engines is a few array operations."""

from enum import IntEnum

import numpy as np

from sagellm_scheduler.perf_model.forecast import Loads


class Role(IntEnum):
    """What an engine is there for."""

    HYBRID = 0
    PREFILL = 1
    DECODE = 2


class Columns:
    """One slot per engine, shape [capacity] each; the arrays double when they are full.

    `seqs`/`max_seqs`: sequence slots taken and there. `tokens`/`total_tokens`: KV tokens spoken for and there.
    `max_context`: longest context an engine can hold. `role`: a Role; `handoff`: engines with the same number hand
    prompts over to each other, 0 to none; `kv_bytes`: of a token. `price`: of a second.
    `loads`: what predictions need.
    """

    def __init__(self, capacity: int = 16) -> None:
        self.ready = np.zeros(capacity, np.bool_)
        self.role = np.zeros(capacity, np.int64)
        self.handoff = np.zeros(capacity, np.int64)
        self.kv_bytes = np.zeros(capacity, np.float64)
        self.seqs = np.zeros(capacity, np.float64)
        self.max_seqs = np.ones(capacity, np.float64)
        self.tokens = np.zeros(capacity, np.float64)
        self.total_tokens = np.ones(capacity, np.float64)
        self.max_context = np.zeros(capacity, np.float64)
        self.price = np.zeros(capacity, np.float64)
        self.last_turn = np.zeros(capacity, np.int64)
        self.loads = Loads.zeros(capacity)
        self.hashes = np.zeros(capacity, np.uint64)
        self._free: list[int] = list(range(capacity - 1, -1, -1))

    def take(self) -> int:
        """Return a free slot."""
        if not self._free:
            self._double()
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Free a slot; it is not ready from now on."""
        self.ready[slot] = False
        self.last_turn[slot] = 0
        self._free.append(slot)

    def _double(self) -> None:
        capacity = len(self.ready)
        self.loads = self.loads.doubled()
        for name in (name for name in vars(self) if not name.startswith("_") and name != "loads"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
        self._free.extend(range(2 * capacity - 1, capacity - 1, -1))
