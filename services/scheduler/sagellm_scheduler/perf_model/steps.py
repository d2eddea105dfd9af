"""Step samples as numbers, and the features by which a step's duration is explained."""

from collections.abc import Iterable

import numpy as np

from sagellm_common.contracts.reports import StepSample
from sagellm_common.regression import Matrix, Vector

BASE, PREFILL, DECODE, CONTEXT, CHUNK_X_CONTEXT, OVER_KNEE = range(6)
NUM_FEATURES = 6
SCALES: Vector = np.array([1.0, 100.0, 10.0, 1e4, 1e5, 100.0])
"""Sizes of the features in an ordinary step, so that all are of the order of 1 in the regression."""

FIRST_GUESS: Vector = np.array([5e-3, 1e-4, 2e-4, 1e-7, 1e-8, 0.0])
"""Seconds per feature where nothing is known: a machine between a small CPU and a large GPU."""

DURATION, ROWS = 0, 5


def table(steps: Iterable[StepSample]) -> Matrix:
    """Return steps as rows of (duration in s, prefill tokens, decoding sequences, context, chunk x context, rows)."""
    rows = [
        (s.duration_s, s.prefill_tokens, s.decode_seqs, s.context_tokens, s.chunk_x_context, s.rows)
        for s in steps
        if s.rows > 0 and s.duration_s > 0.0
    ]
    return np.array(rows, np.float64).reshape(-1, 6)


def features(steps: Matrix, knee: float) -> Matrix:
    """Return the features [n, 6] of a table of steps: 1, prefill tokens, decoding sequences, their context tokens,
    sum of chunk x context, rows above the knee; in units of `SCALES`."""
    x = steps.copy()
    x[:, ROWS] = np.maximum(0.0, steps[:, ROWS] - knee)
    x[:, DURATION] = 1.0
    x /= SCALES
    return x
