"""How predictions come out: a line from what is predicted to what is measured, and the spread around it."""

import numpy as np

from sagellm_common.regression import Matrix, RobustRegression, Vector

TYPICAL_S = 0.1
FIRST_SPREAD = 0.3
LEARN_EVERY = 8
MEMORY = 50.0
PRIOR_SAMPLES = 2.0


class Calibration:
    """measured ≈ offset + weights · predictions, in seconds; at first the first prediction itself.

    The offset is what lies outside of the engine: gateway, bus, the way to the client; without `has_offset` it is 0.
    `line` is (offset, weights…, standard deviation of the relative error).
    """

    def __init__(self, num_predictions: int, *, has_offset: bool = True) -> None:
        self._constant = 1.0 if has_offset else 0.0
        prior: Vector = np.zeros(num_predictions + 1)
        prior[1] = TYPICAL_S
        self._regression = RobustRegression(prior, memory=MEMORY, prior_samples=PRIOR_SAMPLES)
        self._pending: list[tuple[float, ...]] = []
        self.line: tuple[float, ...] = self._line(FIRST_SPREAD)

    def observe(self, predictions_s: tuple[float, ...], measured_s: float) -> None:
        """Take one request; eight together are learnt from."""
        if min(predictions_s) <= 0.0 or measured_s <= 0.0:
            return
        self._pending.append((self._constant, *(seconds / TYPICAL_S for seconds in predictions_s), measured_s))
        if len(self._pending) >= LEARN_EVERY:
            samples, self._pending = np.array(self._pending), []
            self._learn(samples)

    def _learn(self, samples: Matrix) -> None:
        regression = self._regression
        regression.observe(samples[:, :-1], samples[:, -1])
        believed = 8.0 / (8.0 + regression.num_samples)
        self.line = self._line(believed * FIRST_SPREAD + (1.0 - believed) * regression.spread())

    def _line(self, spread: float) -> tuple[float, ...]:
        offset, *weights = self._regression.theta.tolist()
        return (offset, *(weight / TYPICAL_S for weight in weights), spread)
