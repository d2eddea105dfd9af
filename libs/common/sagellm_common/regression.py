"""Linear regression that follows a changing machine, shrugs off outliers, and knows how far off it usually is."""

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

LEAST = 1e-6
KEEP_RATIOS = 256
RECENT = 64
HASTE = 10.0
HUBER = 2.5
LEAST_SPREAD = 0.02
FIRST_SPREAD = 0.3


class RobustRegression:
    """y ≈ x·theta with theta ≥ 0, learnt by recursive least squares on relative errors.

    In information form with exponential forgetting (Haykin, Adaptive Filter Theory, 4th ed., chapter 9). An outlier
    counts as if it lay at 2.5 standard deviations (Huber, 1964). Where most samples are off, the machine has changed:
    they count in full, and what was before is forgotten faster (Fortescue, Kershenbaum and Ydstie, 1981). `prior`
    counts as much as `prior_samples` at which every feature is 1: what samples say nothing about, or no longer, stays
    there. Features are to be of the order of 1. Observing n samples of k features costs O(n k² + k³).
    """

    def __init__(self, prior: Vector, *, memory: float = 500.0, prior_samples: float = 8.0) -> None:
        """Start at `prior`, shape [k]; a sample's weight falls to 1/e after `memory` more."""
        self.theta = self._prior = np.maximum(prior, 0.0)
        self._memory = memory
        self._prior_samples = prior_samples
        self._gram = np.zeros((len(prior), len(prior)))
        self._identity = np.eye(len(prior))
        self._moment = np.zeros(len(prior))
        self._ratios = np.ones(KEEP_RATIOS)
        self.num_samples = 0

    def observe(self, x: Matrix, y: Vector) -> None:
        """Learn from samples x [n, k] and y [n], the oldest first; y must be positive."""
        predicted = np.maximum(x @ self.theta, LEAST)
        ratios = y / predicted
        off = self._off(ratios)
        weights = _huber_weights(ratios - 1.0, HUBER * self.spread() + off) / predicted**2
        memory = self._memory / (1.0 + HASTE * off)
        age = np.exp(np.arange(-len(y) + 1, 1) / memory)
        self._gram *= age[0] * np.exp(-1 / memory)
        self._moment *= age[0] * np.exp(-1 / memory)
        weighted = x * (weights * age)[:, None]
        self._gram += weighted.T @ x
        self._moment += weighted.T @ y
        places = (self.num_samples + np.arange(len(y))) % KEEP_RATIOS
        self._ratios[places] = ratios
        self.num_samples += len(y)
        self._solve()

    def move_prior(self, prior: Vector) -> None:
        """Replace what is believed where samples say nothing."""
        self._prior = np.maximum(prior, 0.0)
        self._solve()

    def spread(self) -> float:
        """Standard deviation of the relative error around its median, by the median too, which outliers do not move."""
        seen = self._seen()
        if not len(seen):
            return FIRST_SPREAD
        return max(LEAST_SPREAD, 1.4826 * _median(np.abs(seen - _median(seen))))

    def ratio(self, quantile: float) -> float:
        """Return the quantile of observed over predicted; 1 while nothing has been observed."""
        seen = self._seen()
        return float(np.quantile(seen, quantile)) if len(seen) else 1.0

    def _off(self, ratios: Vector) -> float:
        """How far most of the newest samples are off. Then not they are wrong: the machine has changed."""
        places = np.arange(max(0, self.num_samples - RECENT), self.num_samples) % KEEP_RATIOS
        newest = np.concatenate([self._ratios[places], ratios])[-RECENT:]
        return abs(_median(newest) - 1.0)

    def _seen(self) -> Vector:
        return self._ratios[: min(self.num_samples, KEEP_RATIOS)]

    def _solve(self) -> None:
        usual = max(float(self._prior.sum()), float(self.theta.sum()), LEAST)
        strength = self._prior_samples / usual**2
        gram = self._gram + strength * self._identity
        self.theta = non_negative(gram, self._moment + strength * self._prior)


def non_negative(gram: Matrix, moment: Vector) -> Vector:
    """Solve gram·theta = moment, and again without the most negative unknown until none is negative.

    The active-set method for non-negative least squares (Lawson and Hanson, 1974) without its second half, which
    takes unknowns back in. `gram` must be positive definite.
    """
    kept, some = np.arange(len(moment)), np.linalg.solve(gram, moment)
    while len(kept) and some.min() < 0.0:
        kept = np.delete(kept, some.argmin())
        some = np.linalg.solve(gram[np.ix_(kept, kept)], moment[kept])
    theta = np.zeros(len(moment))
    theta[kept] = some
    return theta


def _median(values: Vector) -> float:
    """The middle one, the upper of two: numpy's own takes ten times as long for so few."""
    middle = len(values) // 2
    ordered = values.copy()
    ordered.partition(middle)
    return float(ordered[middle])


def _huber_weights(errors: Vector, limit: float) -> Vector:
    return np.minimum(1.0, limit / np.maximum(np.abs(errors), limit))
