"""How much more than computed is needed, learnt from SLOs met and missed."""

import math
from collections import deque

WINDOW_S = 300.0
LEAST_REQUESTS = 20
GAIN, GAIN_S = 0.5, 600.0
SAFETY = 0.5
"""Of the misses that the goal allows, so many are aimed at: what is aimed at comes out on either side."""

SMALLEST, LARGEST = 0.8, 3.0


class Margin:
    """Integral control of the share of requests that miss their SLO: the margin grows while it is above what the goal
    allows, and shrinks while it is below: ten minutes with a tenth missed too many make it a twentieth larger.
    Slow, for requests are missed by the many at once and by none before: a quick one swings."""

    def __init__(self, goal: float, first: float = 1.0) -> None:
        self._allowed = SAFETY * (1.0 - goal)
        self._recent: deque[tuple[float, bool]] = deque()
        self._seen, self._missed = 0, 0
        self._adjusted_at: float | None = None
        self.value = first

    def observe(self, now: float, *, is_met: bool) -> None:
        """Note how a request came out."""
        self._recent.append((now, is_met))
        self._seen += 1
        self._missed += not is_met

    def attainment(self, now: float) -> float | None:
        """Share of the last five minutes' requests that met their SLO; None while they are few."""
        while self._recent and self._recent[0][0] < now - WINDOW_S:
            self._recent.popleft()
        if len(self._recent) < LEAST_REQUESTS:
            return None
        return sum(is_met for _, is_met in self._recent) / len(self._recent)

    def adjust(self, now: float) -> float:
        """Take what has come out since the last time into account; returns the margin."""
        elapsed = 0.0 if self._adjusted_at is None else now - self._adjusted_at
        self._adjusted_at = now
        if self._seen:
            excess = self._missed / self._seen - self._allowed
            self.value *= math.exp(GAIN * excess * min(elapsed, GAIN_S) / GAIN_S)
            self.value = min(LARGEST, max(SMALLEST, self.value))
        self._seen = self._missed = 0
        return self.value
