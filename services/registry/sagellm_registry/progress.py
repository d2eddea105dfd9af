"""Throttling the progress of a download to a rate that observers can follow. Pure: the clock is given."""

from dataclasses import dataclass

MIN_INTERVAL_S = 0.25


@dataclass(slots=True)
class Throttle:
    """Lets the first report of a phase, its last one, and one per interval through."""

    interval_s: float = MIN_INTERVAL_S
    _phase: str = ""
    _last: float = 0.0
    _reported: int = -1

    def admits(self, phase: str, done_bytes: int, total_bytes: int, now: float) -> bool:
        """Whether this report is to be sent at `now`, in seconds of a monotonic clock."""
        if phase == self._phase and done_bytes == self._reported:
            return False
        if phase == self._phase and done_bytes < total_bytes and now - self._last < self.interval_s:
            return False
        self._phase, self._last, self._reported = phase, now, done_bytes
        return True
