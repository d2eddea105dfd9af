"""What answers take from prompts: time of the engine that they run on."""

import numpy as np
from numpy.typing import NDArray

from sagellm_common.pacing import MARGIN
from sagellm_common.regression import Vector
from sagellm_scheduler.perf_model.forecast import Loads

SPARE = 1.1
"""So many times the answers at hand are to find room."""

ALIKE = 1.05
"""Engines whose costs differ by less are taken for equal: coefficients are learnt."""


def taken_s(loads: Loads, context: float, answer: float, per_s: Vector, limit_s: float) -> Vector:
    """Return the seconds [n] of each engine that an answer of so many tokens takes, its contexts being so long in the
    mean, if `limit_s` from token to token is promised to it, or infinitely much.

    Each token takes its row of a step. Steps that are kept to a promise are short, and what each costs whatever it
    computes is lost to prompts as long as any answer goes on. Where answers have to be anyway, that is lost already; on
    an engine that could do without them, it is for this one's sake.
    """
    base, _, decode, per_context, _, per_over = loads.coefficients.T
    row_s = decode + per_context * context + per_over
    if not (len(base) and np.isfinite(limit_s)):
        return np.asarray(answer * row_s)
    step_s = MARGIN * limit_s
    fit = np.minimum(np.minimum(loads.seats, loads.held / context), (step_s - base) / np.maximum(row_s, 1e-9))
    needless = ~_hosts(row_s, base, np.maximum(fit, 1e-3), float(loads.sequences.sum()))
    return np.asarray(answer * row_s + np.where(needless, answer * per_s * np.minimum(1.0, base / step_s), 0.0))


def _hosts(row_s: Vector, base: Vector, fit: Vector, sequences: float) -> NDArray[np.bool_]:
    """The engines [n] that suffice for so many answers, `fit` on each: those first where one costs least if the engine
    is full of them, and all that are like these."""
    cost = row_s + base / fit
    order = np.argsort(cost, kind="stable")
    before = np.cumsum(fit[order]) - fit[order]
    needed = int(np.count_nonzero(before < SPARE * max(1.0, sequences)))
    return np.asarray(cost <= ALIKE * cost[order[needed - 1]])
