"""What is known about all engines of a kind together: where the knee lies, and what a new one is believed to be."""

from collections import deque

import numpy as np

from sagellm_common.regression import Matrix, RobustRegression, Vector
from sagellm_scheduler.perf_model.steps import DURATION, FIRST_GUESS, PREFILL, ROWS, SCALES, features

KNEES = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
KEEP_PER_SORT = 48
FIT_EVERY = 512
FIRST_FITS = (4, 16, 64, 256)
BETTER_BY = 0.95


class KindTimes:
    """Samples of every sort of step, kept apart by size so that a long quiet hour does not push out the busy ones.

    The duration of a matrix product is flat up to a number of rows, the knee: that with the least error of several
    is taken. `version` grows when it changes.
    """

    def __init__(self) -> None:
        self.theta: Vector = FIRST_GUESS * SCALES
        self.knee = KNEES[3]
        self.version = 0
        self._samples: dict[tuple[int, bool], deque[Vector]] = {}
        self._num_samples = 0
        self._fit_at = FIRST_FITS[0]

    def add(self, steps: Matrix) -> bool:
        """Take samples of any engine of the kind; returns whether `theta` has been fitted anew."""
        for step in steps:
            sort = (int(np.log2(step[ROWS])), bool(step[PREFILL] > 0))
            self._samples.setdefault(sort, deque(maxlen=KEEP_PER_SORT)).append(step)
        self._num_samples += len(steps)
        if self._num_samples < self._fit_at:
            return False
        self._fit_at = next((n for n in FIRST_FITS if n > self._num_samples), self._num_samples + FIT_EVERY)
        self._fit()
        return True

    def _fit(self) -> None:
        steps = np.array([step for kept in self._samples.values() for step in kept])
        fits = {knee: _fitted(steps, knee) for knee in KNEES}
        best = min(KNEES, key=lambda knee: fits[knee][1])
        if best != self.knee and fits[best][1] < BETTER_BY * fits[self.knee][1]:
            self.knee = best
            self.version += 1
        self.theta = fits[self.knee][0]


def _fitted(steps: Matrix, knee: float) -> tuple[Vector, float]:
    """Return theta and the mean relative error for a knee."""
    x, y = features(steps, knee), steps[:, DURATION]
    regression = RobustRegression(FIRST_GUESS * SCALES, memory=1e9)
    for _ in range(2):  # the second round weighs by the predictions of the first
        regression.observe(x, y)
    return regression.theta, float(np.mean(np.abs(x @ regression.theta / y - 1.0)))
