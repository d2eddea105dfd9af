"""What it takes to hand a prompt over, from the completion of its last page to the first token's return."""

from sagellm_scheduler.perf_model.calibration import Calibration

MESSAGES_S = 0.003
BYTES_PER_S = 5e9
"""First guesses: three messages, and memory to memory on one host."""


class TransferTimes:
    """Learnt per class of engines that hand over to each other, which the fleet numbers.

    Most of a prompt is transferred while the rest of it is computed, so that time grows little with its length.
    """

    def __init__(self) -> None:
        self._lines: dict[int, Calibration] = {}
        self.num_seen = 0

    def raw_s(self, num_bytes: float) -> float:
        """Return the first guess, to be compared with what comes."""
        return MESSAGES_S + num_bytes / BYTES_PER_S

    def predict_s(self, handoff: int, num_bytes: float) -> float:
        """Return the expected time of a hand-off."""
        raw_s = self.raw_s(num_bytes)
        known = self._lines.get(handoff)
        if known is None:
            return raw_s
        offset, factor, _ = known.line
        return offset + factor * raw_s

    def came(self, handoff: int, raw_s: float, measured_s: float) -> None:
        """Learn how a prediction came out."""
        self.num_seen += 1
        self._lines.setdefault(handoff, Calibration(1)).observe((raw_s,), measured_s)
