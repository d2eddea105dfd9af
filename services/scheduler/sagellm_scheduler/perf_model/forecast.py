"""From step times to what a request will see: time to the first token, and time per token after it."""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sagellm_scheduler.perf_model.regression import Matrix, Vector
from sagellm_scheduler.perf_model.steps import BASE, CHUNK_X_CONTEXT, CONTEXT, DECODE, NUM_FEATURES, OVER_KNEE, PREFILL

MOST_SHARE = 0.8


@dataclass(slots=True)
class Loads:
    """What engines have to do before and beside a new request; shape [n] each, `coefficients` [n, 6].

    `kind` numbers the kinds of engines. `decoding`: sequences that decode now. `sequences`: all that it has or will
    have, those still to be prefilled included. `context`: tokens of all their contexts. `backlog`: prefill tokens to be
    computed before the request, those of `prompts` prompts; so many of them as are not `unseen` were reported `age`
    seconds ago. `budget`: tokens of a step. `prefill_share`: share of the time that goes into prefill.
    """

    coefficients: Matrix
    knee: Vector
    kind: NDArray[np.intp]
    decoding: Vector
    sequences: Vector
    context: Vector
    backlog: Vector
    unseen: Vector
    age: Vector
    prompts: Vector
    budget: Vector
    prefill_share: Vector

    @classmethod
    def zeros(cls, capacity: int) -> Self:
        """Room for so many engines."""
        empty = {field.name: np.zeros(capacity) for field in fields(cls)}
        return cls(
            **{**empty, "coefficients": np.zeros((capacity, NUM_FEATURES)), "kind": np.zeros(capacity, np.intp)}  # type: ignore[arg-type] # the two that are no vectors
        )

    def at(self, slots: NDArray[np.intp]) -> Self:
        """The loads of some engines."""
        return type(self)(*(getattr(self, field.name)[slots] for field in fields(self)))

    def per(self, feature: int) -> Vector:
        """Seconds per unit of a feature, shape [n]."""
        column: Vector = self.coefficients[:, feature]
        return column

    def idle(self) -> Self:
        """The same engines with nothing to do."""
        none = np.zeros(len(self.knee))
        return replace(self, decoding=none, sequences=none, context=none, backlog=none, unseen=none, prompts=none)

    def doubled(self) -> Self:
        """The same with room for twice as many."""
        columns = (getattr(self, field.name) for field in fields(self))
        return type(self)(*(np.concatenate([column, np.zeros_like(column)]) for column in columns))


def first_token_s(loads: Loads, new: Vector, context: float) -> Vector:
    """Seconds until the first token of a prompt of `context` tokens, of which `new` [n] are not in the engine's cache.

    Prompts are prefilled in the order of arrival, as many tokens a step as the decoding sequences leave of its budget.
    """
    room = _room(loads)
    tokens = loads.backlog + new
    steps = np.maximum(1.0, np.ceil(tokens / room))
    beside = loads.per(BASE) + loads.per(DECODE) * loads.decoding + loads.per(CONTEXT) * loads.context
    ahead = loads.backlog / np.maximum(1.0, loads.prompts)
    products = _products(new, context, room) + _products(loads.backlog, ahead, room)
    computing = (
        loads.per(PREFILL) * tokens
        + loads.per(CHUNK_X_CONTEXT) * products
        + loads.per(OVER_KNEE) * _over(loads, tokens, steps)
    )
    underway = np.where(loads.decoding > 0, 0.5 * beside, 0.0)
    seconds = steps * beside + computing
    reported = seconds * (loads.backlog - loads.unseen) / np.maximum(1.0, tokens)
    return underway + seconds - np.minimum(loads.age, reported)


def prefill_s(loads: Loads, new: Vector, context: float) -> Vector:
    """Seconds of computing that a prompt takes from those that decode beside it."""
    room = _room(loads)
    steps = np.maximum(1.0, np.ceil(new / room))
    over = _over(loads, new, steps)
    return (
        loads.per(PREFILL) * new
        + loads.per(CHUNK_X_CONTEXT) * _products(new, context, room)
        + loads.per(OVER_KNEE) * over
    )


def prefill_rate(loads: Loads) -> Vector:
    """Prefill tokens a second of full steps, beside the sequences that decode."""
    room = _room(loads)
    beside = loads.per(BASE) + loads.per(DECODE) * loads.decoding + loads.per(CONTEXT) * loads.context
    over = np.maximum(0.0, loads.budget - loads.knee)
    return room / np.maximum(1e-9, beside + loads.per(PREFILL) * room + loads.per(OVER_KNEE) * over)


def per_token_s(loads: Loads, more: float, context: float) -> Vector:
    """Mean seconds from token to token with `more` sequences beside those that are there, of `context` tokens each."""
    sequences = loads.sequences + more
    step = loads.per(BASE) + loads.per(DECODE) * sequences + loads.per(CONTEXT) * (loads.context + more * context)
    step = step + loads.per(OVER_KNEE) * np.maximum(0.0, sequences - loads.knee)
    return step / (1.0 - np.minimum(loads.prefill_share, MOST_SHARE))


def _room(loads: Loads) -> Vector:
    return np.maximum(1.0, loads.budget - loads.decoding)


def _over(loads: Loads, tokens: Vector, steps: Vector) -> Vector:
    """Rows above the knee in all steps that compute so many prefill tokens beside the decoding sequences."""
    last = tokens - (steps - 1) * _room(loads)
    full = np.maximum(0.0, loads.budget - loads.knee)
    return (steps - 1) * full + np.maximum(0.0, last + loads.decoding - loads.knee)


def _products(new: Vector, context: Vector | float, room: Vector) -> Vector:
    """Sum of chunk x context at the chunk's end, for the last `new` tokens of a context, in chunks of `room`."""
    known = np.maximum(0.0, context - new)
    return new * (known + 0.5 * (new + np.minimum(new, room)))
