"""Sequences that wait for pages: smaller priority first, then earlier arrival."""

from bisect import bisect_left, insort

from sagellm_engine.core.sequence import SequenceState, SequenceStatus


def _rank(seq: SequenceState) -> tuple[int, float, int]:
    return seq.request.priority, seq.request.arrival, seq.order


class WaitingQueue:
    """A sorted list. A preempted sequence keeps its rank and so comes before those that arrived later."""

    def __init__(self) -> None:
        self._sequences: list[SequenceState] = []

    def __len__(self) -> int:
        """Return the number of waiting sequences."""
        return len(self._sequences)

    def push(self, seq: SequenceState) -> None:
        """Let a sequence wait."""
        seq.status = SequenceStatus.WAITING
        insort(self._sequences, seq, key=_rank)

    def first(self) -> SequenceState:
        """Return the next to be admitted; raises IndexError when none waits."""
        return self._sequences[0]

    def remove(self, seq: SequenceState) -> None:
        """Take a sequence out, which must be in; ranks are unique."""
        del self._sequences[bisect_left(self._sequences, _rank(seq), key=_rank)]

    def num_tokens(self) -> int:
        """Return the number of tokens of all waiting sequences."""
        return sum(len(seq.tokens) for seq in self._sequences)

    def num_new_tokens(self) -> int:
        """Return how many of them are still to be computed, by what was in the prefix cache when they came."""
        return sum(len(seq.tokens) - seq.foreseen for seq in self._sequences)

    def leaving(self) -> list[SequenceState]:
        """Return the waiting sequences that are prompts for other engines."""
        return [seq for seq in self._sequences if seq.request.hold]
