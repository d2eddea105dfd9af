"""How much more than computed is needed, learnt from SLOs met and missed."""

from collections import deque

WINDOW_S = 300.0
LEAST_REQUESTS = 20
GROWTH, DECAY = 2.0, 0.995
LARGEST_STEP = 0.25
SMALLEST, LARGEST = 0.6, 3.0


class Margin:
    """Grows with the share of requests that miss their SLO beyond what the goal allows, and shrinks slowly else."""

    def __init__(self, goal: float, first: float = 1.0) -> None:
        self._allowed = 1.0 - goal
        self._recent: deque[tuple[float, bool]] = deque()
        self.value = first

    def observe(self, now: float, *, is_met: bool) -> None:
        """Note how a request came out."""
        self._recent.append((now, is_met))

    def attainment(self, now: float) -> float | None:
        """Share of the last five minutes' requests that met their SLO; None while they are few."""
        while self._recent and self._recent[0][0] < now - WINDOW_S:
            self._recent.popleft()
        if len(self._recent) < LEAST_REQUESTS:
            return None
        return sum(is_met for _, is_met in self._recent) / len(self._recent)

    def adjust(self, now: float) -> float:
        """Take what has come out since into account, once for each plan; returns the margin."""
        attained = self.attainment(now)
        if attained is None:
            return self.value
        excess = (1.0 - attained) - self._allowed
        self.value *= 1.0 + min(LARGEST_STEP, GROWTH * excess) if excess > 0.0 else DECAY
        self.value = min(LARGEST, max(SMALLEST, self.value))
        return self.value
