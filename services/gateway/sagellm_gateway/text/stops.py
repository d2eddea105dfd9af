"""Stop strings in a stream: text that may still become one is held back, no more than that."""

from collections.abc import Sequence

from sagellm_common.errors import InvalidArgument

MAX_STOP_CHARS = 1024


class StopMatcher:
    """Finds where a stream ends because of a stop string.

    The stream ends at the first character that completes any stop string; if several are complete there, the longest
    counts. Chunking makes no difference. Cost per character: one automaton step per stop string (Knuth, Morris,
    Pratt 1977), and nothing while no stop string has begun and the text has none of their first characters.
    """

    __slots__ = ("_failures", "_firsts", "_held", "_include", "_states", "_stopped", "_stops")

    def __init__(self, stops: Sequence[str], include_stop: bool = False) -> None:
        """Raises `InvalidArgument` for an empty stop string or one over `MAX_STOP_CHARS`."""
        for stop in stops:
            if not 0 < len(stop) <= MAX_STOP_CHARS:
                raise InvalidArgument(f"a stop string has 1 to {MAX_STOP_CHARS} characters", param="stop")
        self._stops = tuple(dict.fromkeys(stops))
        self._failures = tuple(_failure_function(stop) for stop in self._stops)
        self._firsts = frozenset(stop[0] for stop in self._stops)
        self._states = [0] * len(self._stops)
        self._include = include_stop
        self._held = ""
        self._stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """Take text, return what is safe to show and whether the stream has ended here."""
        if self._stopped:
            return "", True
        if not self._held and self._firsts.isdisjoint(text):
            return text, False
        return self._match(text)

    def flush(self) -> str:
        """End the stream without a stop string: return what was held back."""
        held, self._held = self._held, ""
        return held

    def _match(self, text: str) -> tuple[str, bool]:
        joined = self._held + text
        for end, char in enumerate(text, start=len(self._held) + 1):
            if length := self._step(char):
                self._stopped, self._held = True, ""
                return joined[: end if self._include else end - length], True
        keep = len(joined) - max(self._states)
        self._held = joined[keep:]
        return joined[:keep], False

    def _step(self, char: str) -> int:
        """Advance every automaton by one character; return the length of the longest stop string that ends here."""
        states, longest = self._states, 0
        for i, stop in enumerate(self._stops):
            state, failure = states[i], self._failures[i]
            while state and stop[state] != char:
                state = failure[state - 1]
            states[i] = state = state + 1 if stop[state] == char else 0
            if state == len(stop):
                longest = max(longest, state)
        return longest


def _failure_function(stop: str) -> list[int]:
    """For each prefix of `stop`: the length of its longest proper prefix that is also its suffix."""
    failure, state = [0] * len(stop), 0
    for i in range(1, len(stop)):
        while state and stop[i] != stop[state]:
            state = failure[state - 1]
        state += stop[i] == stop[state]
        failure[i] = state
    return failure
