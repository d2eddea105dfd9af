"""When a child that died is started again."""

from dataclasses import dataclass

FIRST_S = 0.5
LONGEST_S = 30.0
STEADY_S = 60.0


@dataclass(slots=True)
class Backoff:
    """Doubles the pause with each death; a child that lived for a minute begins anew. Times in seconds."""

    _next_s: float = FIRST_S

    def died(self, lived_s: float) -> float:
        """Return the pause before the next start of a child that lived for `lived_s`."""
        pause_s = FIRST_S if lived_s >= STEADY_S else self._next_s
        self._next_s = min(pause_s * 2, LONGEST_S)
        return pause_s
