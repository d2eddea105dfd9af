"""Load that has been promised to an engine and is not in its reports yet."""

from collections import Counter
from dataclasses import dataclass

from sagellm_common.contracts.base import LeaderEpoch

Mark = tuple[LeaderEpoch, int]
"""Leader epoch and number of an assignment; an engine that has seen a mark has seen all smaller ones."""


@dataclass(slots=True)
class Reservation:
    """What one assigned request is expected to take: sequence slots, KV tokens for prompt and answer, and the tokens
    of its prompt that have to be computed. One that is `leaving` is answered by another engine, and ends when this one
    has seen it: its reports tell then. `itl_s` is the time from token to token that its answer is promised there, 0 if
    none is."""

    request_id: str
    mark: Mark
    seqs: int
    tokens: int
    expires_at: float
    prefill: int = 0
    leaving: bool = False
    itl_s: float = 0.0

    @property
    def prompts(self) -> int:
        """Sequences whose prompts are computed here."""
        return self.seqs if self.prefill else 0


class Reservations:
    """The assigned requests of one engine: those in flight, and among them those it has not acknowledged.

    Sums are kept, so that every operation costs O(1), an acknowledgement O(number unacknowledged).
    """

    def __init__(self) -> None:
        self._in_flight: dict[str, Reservation] = {}
        self._unseen: dict[str, Reservation] = {}
        self._promised: Counter[float] = Counter()
        self.seqs = self.tokens = self.unseen_seqs = self.unseen_tokens = self.unseen_prefill = self.unseen_prompts = 0
        self.unseen_leaving = self.unseen_leaving_tokens = self.unseen_leaving_prefill = 0

    def __len__(self) -> int:
        return len(self._in_flight)

    def add(self, reservation: Reservation, *, seen: bool = False) -> None:
        """Reserve; an earlier reservation of the same request is replaced."""
        self.release(reservation.request_id)
        if seen and reservation.leaving:
            return
        self._in_flight[reservation.request_id] = reservation
        self.seqs += reservation.seqs
        self.tokens += reservation.tokens
        if reservation.itl_s:
            self._promised[reservation.itl_s] += 1
        if not seen:
            self._unseen[reservation.request_id] = reservation
            self._count_unseen(reservation, 1)

    def release(self, request_id: str) -> None:
        """Free what a request has reserved, if anything."""
        self._see(request_id)
        reservation = self._in_flight.pop(request_id, None)
        if reservation is not None:
            self.seqs -= reservation.seqs
            self.tokens -= reservation.tokens
            self._promised[reservation.itl_s] -= 1
            if self._promised[reservation.itl_s] <= 0:
                del self._promised[reservation.itl_s]

    def acknowledge(self, mark: Mark) -> None:
        """The engine has seen assignments up to `mark`: from now on its reports count them."""
        for request_id in [key for key, reservation in self._unseen.items() if reservation.mark <= mark]:
            if self._unseen[request_id].leaving:
                self.release(request_id)
            else:
                self._see(request_id)

    def expire(self, now: float) -> None:
        """Free what was not acknowledged in time: it never reached the engine."""
        for request_id in [key for key, reservation in self._unseen.items() if reservation.expires_at <= now]:
            self.release(request_id)

    def least_promise(self, above_s: float) -> float:
        """Return the least time from token to token, above so many seconds, that is promised to an answer; 0: none."""
        return min((seconds for seconds in self._promised if seconds > above_s), default=0.0)

    def has_unseen(self) -> bool:
        return bool(self._unseen)

    def holds(self, request_id: str) -> bool:
        return request_id in self._in_flight

    def _see(self, request_id: str) -> None:
        reservation = self._unseen.pop(request_id, None)
        if reservation is not None:
            self._count_unseen(reservation, -1)

    def _count_unseen(self, reservation: Reservation, sign: int) -> None:
        self.unseen_seqs += sign * reservation.seqs
        self.unseen_tokens += sign * reservation.tokens
        self.unseen_prefill += sign * reservation.prefill
        self.unseen_prompts += sign * reservation.prompts
        if reservation.leaving:
            self.unseen_leaving += sign * reservation.seqs
            self.unseen_leaving_tokens += sign * reservation.tokens
            self.unseen_leaving_prefill += sign * reservation.prefill
