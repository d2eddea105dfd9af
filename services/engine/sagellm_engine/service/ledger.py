"""The requests an engine has taken, and their tokens until the gateway has them. Plain: no clock, no bus.

A request is kept until its gateway acknowledges the end, or for KEEP_S after it. A cancelled (request, epoch) is
remembered as long, since a cancel may overtake its dispatch; so is the last epoch of a request that has been closed,
since a dispatch may be repeated.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.reports import Progress
from sagellm_common.errors import Cancelled, NotFound, ResourceExhausted
from sagellm_engine.core.types import RequestKey, TokenOutput
from sagellm_engine.service.entries import ChoiceTokens, Entry
from sagellm_engine.service.remembered import Remembered

KEEP_S = 60.0
MAX_ENDED = 16_384


@dataclass(slots=True)
class Recorded:
    """What one step meant: items to send per gateway, requests that got their first token, requests that ended."""

    items: dict[str, list[TokenItem]] = field(default_factory=dict)
    started: list[Entry] = field(default_factory=list)
    ended: list[Entry] = field(default_factory=list)


class Ledger:
    """At most one epoch of a request is held: a newer one replaces it."""

    def __init__(self, max_open_choices: int) -> None:
        self._max_open_choices = max_open_choices
        self._entries: dict[str, Entry] = {}
        self._ended: OrderedDict[RequestKey, float] = OrderedDict()
        self._closed: Remembered[str, int] = Remembered(KEEP_S)
        self._cancelled: Remembered[tuple[str, int | None], bool] = Remembered(KEEP_S)
        self.num_open_choices = 0

    def __len__(self) -> int:
        """Return the number of requests held, ended ones included."""
        return len(self._entries)

    @property
    def num_open(self) -> int:
        """Requests that have not ended."""
        return len(self._entries) - len(self._ended)

    def check(self, key: RequestKey, now: float) -> bool:
        """Return whether a dispatch is new; raises Cancelled if it was cancelled or replaced before it came."""
        request_id, epoch = key
        if self._cancelled.get(key, False, now) or self._cancelled.get((request_id, None), False, now):
            raise Cancelled("this request was cancelled before it arrived")
        entry = self._entries.get(request_id)
        newest = self._closed.get(request_id, -1, now) if entry is None else entry.key[1]
        if newest > epoch:
            raise Cancelled(f"epoch {newest} of this request is here already")
        return newest < epoch

    def accept(
        self, key: RequestKey, gateway_id: str, first_indexes: Mapping[int, int], now: float, **facts: Any
    ) -> Entry:
        """Hold a new request (see `check`); `first_indexes` names its choices and where each goes on.

        Raises ResourceExhausted if too many choices are open.
        """
        if self.num_open_choices + len(first_indexes) > self._max_open_choices:
            raise ResourceExhausted(f"the engine has {self.num_open_choices} sequences to work on already")
        if key[0] in self._entries:
            self._drop(self._entries[key[0]], now)
        choices = {number: ChoiceTokens(first) for number, first in first_indexes.items()}
        entry = self._entries[key[0]] = Entry(key, gateway_id, choices, num_open=len(choices), **facts)
        self.num_open_choices += len(choices)
        if not choices:
            self._ended[key] = now + KEEP_S
        return entry

    def record(self, outputs: Iterable[TokenOutput], now: float) -> Recorded:
        """Keep what a step made and return what has to be sent; outputs of requests no longer held are dropped."""
        recorded = Recorded()
        items, entries = recorded.items, self._entries
        for output in outputs:
            entry = entries.get(output.key[0])
            if entry is None or entry.key != output.key:
                continue
            choice = entry.choices[output.choice]
            if choice.finish is not None:
                continue
            item = choice.add(entry.key, output)
            if entry.gateway_id in items:
                items[entry.gateway_id].append(item)
            else:
                items[entry.gateway_id] = [item]
            if not entry.started and item.token_ids:
                entry.started = True
                recorded.started.append(entry)
            if item.finish is not None and self._choice_ended(entry, now):
                recorded.ended.append(entry)
        return recorded

    def cancel(self, request_id: str, epoch: int | None, now: float) -> RequestKey | None:
        """Note a cancellation; return the key to be cancelled, or None if nothing is open. None is every epoch."""
        self._cancelled.set((request_id, epoch), True, now)
        entry = self._entries.get(request_id)
        if entry is None or epoch not in (None, entry.key[1]):
            return None
        if not entry.num_open:
            self._drop(entry, now)
            return None
        entry.forget_at_end = True
        return entry.key

    def ack(self, keys: Iterable[RequestKey], now: float) -> None:
        """Forget requests whose gateway has everything; one that has not ended yet is forgotten when it does."""
        for key in keys:
            entry = self.entry(key)
            if entry is None:
                continue
            if entry.num_open:
                entry.forget_at_end = True
            else:
                self._drop(entry, now)

    def resend(self, key: RequestKey, choice: int, from_index: int) -> TokenItem:
        """Return the tokens of a choice from an index on, with the end if it has ended.

        Raises NotFound for a request that is not held, InvalidArgument for an index that this epoch does not have.
        """
        entry = self.entry(key)
        if entry is None or choice not in entry.choices:
            raise NotFound("this engine does not hold that request", param="request_id")
        return entry.choices[choice].since(key, choice, from_index)

    def entry(self, key: RequestKey) -> Entry | None:
        """Return a request if it is held."""
        entry = self._entries.get(key[0])
        return entry if entry is not None and entry.key == key else None

    def open_of(self, gateway_id: str) -> list[RequestKey]:
        """Return the requests of a gateway that have not ended."""
        return [entry.key for entry in self._entries.values() if entry.num_open and entry.gateway_id == gateway_id]

    def progress(self) -> Iterator[tuple[str, Progress]]:
        """Return how far each choice of each held request is, with its gateway."""
        for entry in self._entries.values():
            for progress in entry.progress():
                yield entry.gateway_id, progress

    def expire(self, now: float) -> None:
        """Forget what ended long ago, and the oldest ends if there are too many."""
        while self._ended:
            key, until = next(iter(self._ended.items()))
            if until > now and len(self._ended) <= MAX_ENDED:
                return
            self._drop(self._entries[key[0]], now)

    def _choice_ended(self, entry: Entry, now: float) -> bool:
        entry.num_open -= 1
        self.num_open_choices -= 1
        if entry.num_open:
            return False
        if entry.forget_at_end:
            self._drop(entry, now)
        else:
            self._ended[entry.key] = now + KEEP_S
        return True

    def _drop(self, entry: Entry, now: float) -> None:
        del self._entries[entry.key[0]]
        self._ended.pop(entry.key, None)
        self._closed.set(entry.key[0], entry.key[1], now)
        self.num_open_choices -= entry.num_open
        entry.num_open = 0
