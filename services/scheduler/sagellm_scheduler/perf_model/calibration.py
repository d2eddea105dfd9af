"""How predictions about requests come out: a straight line from predicted to measured, and the spread around it."""

import numpy as np

from sagellm_scheduler.perf_model.regression import Matrix, RobustRegression, Vector

TYPICAL_S = 0.1
PRIOR: Vector = np.array([0.0, TYPICAL_S])
FIRST_SPREAD = 0.3
LEARN_EVERY = 8


class Calibration:
    """measured ≈ offset + factor x predicted, in seconds; at first the prediction itself.

    The offset is what lies outside of the engine: gateway, bus, the way to the client. `line` is (offset, factor,
    standard deviation of the relative error).
    """

    def __init__(self) -> None:
        self._regression = RobustRegression(PRIOR, memory=200.0)
        self._pending: list[tuple[float, float, float]] = []
        self.line = (0.0, 1.0, FIRST_SPREAD)

    def observe(self, predicted_s: float, measured_s: float) -> None:
        """Take one request; eight together are learnt from."""
        if predicted_s <= 0.0 or measured_s <= 0.0:
            return
        self._pending.append((1.0, predicted_s / TYPICAL_S, measured_s))
        if len(self._pending) >= LEARN_EVERY:
            samples, self._pending = np.array(self._pending), []
            self._learn(samples)

    def _learn(self, samples: Matrix) -> None:
        regression = self._regression
        regression.observe(samples[:, :2], samples[:, 2])
        offset, per_typical = regression.theta
        believed = 8.0 / (8.0 + regression.num_samples)
        spread = believed * FIRST_SPREAD + (1.0 - believed) * regression.spread()
        self.line = (float(offset), float(per_typical / TYPICAL_S), spread)
