"""The bus: delivers messages late, and if told so not at all, twice, or out of order."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sagellm_simulation.kernel import Kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFaults:
    """What goes wrong with a message: probabilities, and delays in seconds.

    A message takes `delay_s` and up to `jitter_s` more. Of one link they stay in order, but for those that are
    `reordered`: these take up to `late_s` more.
    """

    delay_s: float = 0.0005
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    late_s: float = 0.2


NO_FAULTS = NetworkFaults()


class Network:
    """Links between (from, to), by name."""

    def __init__(self, kernel: Kernel, faults: NetworkFaults, chance: random.Random) -> None:
        self._kernel, self._faults, self._chance = kernel, faults, chance
        self._last: dict[tuple[str, str], float] = {}
        self.num_sent = 0

    def send(self, link: tuple[str, str], deliver: Callable[..., None], *args: Any) -> None:
        """Have `deliver(*args)` called when the message arrives, if it does."""
        self.num_sent += 1
        faults, chance = self._faults, self._chance
        if faults.loss and chance.random() < faults.loss:
            return
        self._carry(link, deliver, args)
        if faults.duplication and chance.random() < faults.duplication:
            self._carry(link, deliver, args)

    def _carry(self, link: tuple[str, str], deliver: Callable[..., None], args: tuple[Any, ...]) -> None:
        faults, chance = self._faults, self._chance
        time = self._kernel.now + faults.delay_s
        if faults.jitter_s:
            time += chance.random() * faults.jitter_s
        if faults.reordering and chance.random() < faults.reordering:
            self._kernel.at(time + chance.random() * faults.late_s, deliver, *args)
            return
        last = self._last.get(link, 0.0)
        time = self._last[link] = time if time > last else last
        self._kernel.at(time, deliver, *args)
