"""What is known about the step times of one engine."""

import numpy as np

from sagellm_common.contracts.reports import StepSample
from sagellm_common.regression import Matrix, RobustRegression, Vector
from sagellm_scheduler.perf_model.kinds import KindTimes
from sagellm_scheduler.perf_model.steps import (
    CHUNK_X_CONTEXT,
    DECODE,
    DURATION,
    PREFILL,
    ROWS,
    SCALES,
    features,
    table,
)

SHARE_MEMORY_S = 5.0
LEARN_EVERY_S = 0.5
MOST_PENDING = 64


class EngineTimes:
    """Step times of one engine: its own samples, and behind them what is known of its kind.

    `coefficients` [6] are seconds per feature (see `steps.features`), `prefill_share` is the share of the last five
    seconds or so that went into prefill: what decoding sequences will lose to the prompts of others, in so many steps
    a second, `stalls_per_s`, of `prefill_per_s` tokens together a second.
    """

    def __init__(self, kind: KindTimes) -> None:
        self._kind = kind
        self._version = kind.version
        self._regression = RobustRegression(kind.theta)
        self.coefficients: Vector = self._regression.theta / SCALES
        self._pending: list[StepSample] = []
        self._learnt_at: float | None = None
        self.prefill_share = 0.0
        self.stalls_per_s = 0.0
        self.prefill_per_s = 0.0

    @property
    def knee(self) -> float:
        return self._kind.knee

    @property
    def num_samples(self) -> int:
        return self._regression.num_samples

    def ratio(self, quantile: float) -> float:
        """Return the quantile of a step's real over its predicted duration."""
        return self._regression.ratio(quantile)

    def benchmarked(self, steps: list[StepSample]) -> None:
        """Take the samples of a self-benchmark, which say nothing about the load."""
        self._learn(table(steps))

    def observe(self, steps: list[StepSample], now: float) -> bool:
        """Take reported steps, at `now` in seconds on a clock that never goes back; returns whether it learnt.

        Samples are gathered for half a second, so that a thousand engines cost little.
        """
        self._pending += steps
        if self._learnt_at is None:
            self._learnt_at = now
        elapsed = now - self._learnt_at
        if elapsed < LEARN_EVERY_S and len(self._pending) < MOST_PENDING:
            return False
        samples, self._pending, self._learnt_at = table(self._pending), [], now
        self._learn(samples)
        if elapsed > 0.0:
            self._share(samples, elapsed)
        return True

    def predict(self, samples: Matrix) -> Vector:
        """Return the expected durations [n] of steps, in seconds."""
        return features(samples, self.knee) @ self._regression.theta

    def _learn(self, samples: Matrix) -> None:
        if not len(samples):
            return
        if self._kind.add(samples) and self._version == self._kind.version:
            self._regression.move_prior(self._kind.theta)
        if self._version != self._kind.version:  # what was learnt had another knee
            self._version = self._kind.version
            self._regression = RobustRegression(self._kind.theta)
        self._regression.observe(features(samples, self.knee), samples[:, DURATION])
        self.coefficients = self._regression.theta / SCALES

    def _share(self, samples: Matrix, elapsed_s: float) -> None:
        without = samples.copy()
        without[:, [PREFILL, CHUNK_X_CONTEXT]] = 0.0
        without[:, ROWS] = samples[:, DECODE]
        seconds = float(np.maximum(self.predict(samples) - self.predict(without), 0.0).sum())
        kept = np.exp(-elapsed_s / SHARE_MEMORY_S)
        self.prefill_share = float(kept * self.prefill_share + (1 - kept) * min(1.0, seconds / elapsed_s))
        comes = float(samples[:, PREFILL].sum()) / elapsed_s
        self.prefill_per_s = float(kept * self.prefill_per_s + (1 - kept) * comes)
        stalls = float((samples[:, PREFILL] > 0).sum()) / elapsed_s
        self.stalls_per_s = float(kept * self.stalls_per_s + (1 - kept) * stalls)
