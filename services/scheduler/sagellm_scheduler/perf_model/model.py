"""The performance model: one object that knows every engine's step times and how predictions come out."""

from dataclasses import dataclass, field

import numpy as np

from sagellm_common.regression import Vector
from sagellm_scheduler.perf_model.calibration import Calibration
from sagellm_scheduler.perf_model.engine_times import EngineTimes
from sagellm_scheduler.perf_model.forecast import Loads, few_enough, normal, prompt_times, token_times, usual_s
from sagellm_scheduler.perf_model.hosting import taken_s
from sagellm_scheduler.perf_model.kinds import KindTimes

FIRST, PER, APART = slice(0, 3), slice(3, 7), slice(7, 10)
"""Places of the calibrations' lines."""

SOON = 0.3
"""Share of what an answer takes of an engine's time that it takes while those wait who wait now: they are served long
before it ends."""

DISTANCES, WEIGHTS = np.array([[-(3.0**0.5)], [0.0], [3.0**0.5]]), np.array([1 / 6, 2 / 3, 1 / 6])
"""Gauss and Hermite's three points of a normal distribution, in standard deviations, and their weights."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a request asks of an engine: tokens of its prompt, and of the answer that is expected.

    `blocks` are the hashes of the prompt's index blocks. `typical` is the answer that others are expected to have.
    `limit_s` is the time from token to token that it is promised. With it, so many are `waiting` for an engine.
    """

    context: float
    answer: float
    blocks: tuple[int, ...] = ()
    typical: float = 256.0
    limit_s: float = np.inf
    waiting: int = 0


@dataclass(slots=True)
class Forecast:
    """What a request would see on each of n engines; shape [n] each, seconds.

    `first_s`: from the assignment to the first token; `apart_s`: the same if the prompt is for another engine,
    without what handing over takes. `per_s`: expected mean from token to token; `usual_s`: what half of such
    requests stay below. The spreads are standard deviations of the logarithm. `added_s`: what the request's own
    time and the delay of the others that run there or wait come to together. `per_before_s`: what the others have
    from token to token without it, of which the prompt takes `stalled_s` more from each and the answer `grown_s` as
    long as it lasts. By what the prompt takes of the engine's time, all prompts that wait are delayed by `before_s`
    together, by the answer, `beside_s`.
    `step_s`: a step without prompts; others take `stall_s` longer, `stalls` of them a second, and are kept to `bound_s`
    where an SLO is tight, to `bound_before_s` without the request; infinite where no pace is kept. `own_s`: of
    computing its prompt. `delay_s`: by which those that run or wait there are delayed together. `alone_s`: to the first
    token if nothing else ran there. `backlog_s`: until what waits there is prefilled.

    The `raw` ones are what the step times alone say, to be compared with what comes; `raw_fleet_s` is the mean of all
    engines where they are even.
    """

    first_s: Vector
    first_spread: Vector
    apart_s: Vector
    apart_spread: Vector
    per_s: Vector
    usual_s: Vector
    per_spread: Vector
    per_before_s: Vector
    stalled_s: Vector
    grown_s: Vector
    before_s: Vector
    beside_s: Vector
    own_s: Vector
    delay_s: Vector
    added_s: Vector
    others: Vector
    raw_first_s: Vector
    raw_per_s: Vector
    raw_fleet_s: Vector
    alone_s: Vector
    backlog_s: Vector
    step_s: Vector
    stalls: Vector
    stall_s: Vector
    bound_s: Vector
    bound_before_s: Vector
    answer: float
    _known: dict[object, Vector] = field(default_factory=dict)

    def first_within(self, limit_s: float) -> Vector:
        """Probability [n] that the first token comes within so many seconds."""
        return _within(self.first_s, self.first_spread, limit_s)

    def apart_within(self, limit_s: float) -> Vector:
        """The same for a prompt that is for another engine."""
        return _within(self.apart_s, self.apart_spread, limit_s)

    def per_within(self, limit_s: float) -> Vector:
        """Probability [n] that the mean time per token is within so many seconds.

        A short answer has it short unless a prompt comes between, a long one has its share of them: few enough of those
        must come. Steps are uncertain by the spread, of which three points stand for all.
        """
        if limit_s in self._known:
            return self._known[limit_s]
        mean = self.stalls * self.answer * self.per_s
        left_s = limit_s * np.exp(-DISTANCES * self.per_spread) - self.step_s
        most = np.where(self.stall_s > 0.0, left_s * self.answer / np.maximum(self.stall_s, 1e-9), 1e9)
        within = WEIGHTS @ np.where(left_s > 0.0, few_enough(np.minimum(most, 1e9), mean), 0.0)
        self._known[limit_s] = np.asarray(np.maximum(within, _within(self.bound_s, self.per_spread, limit_s)))
        return self._known[limit_s]

    def all_within(self, limit_s: float, answer: float) -> Vector:
        """Probability [n] that an answer of so many tokens is complete within so many seconds."""
        return _within(self.first_s + answer * self.per_s, self.first_spread, limit_s)

    def others_harmed(self, limit_s: float, *, prompt: bool = True, answer: bool = True) -> Vector:
        """How many of the others are expected to exceed the limit for the sake of the request's prompt, of its answer,
        or of both, shape [n]. Those whose pace is kept, prompts cost nothing."""
        before, after = self._others_within(limit_s), self._others_within(limit_s, prompt=prompt, answer=answer)
        return self.others * np.maximum(0.0, before - after)

    def _others_within(self, limit_s: float, *, prompt: bool = False, answer: bool = False) -> Vector:
        """Probability [n] that the others' time per token is within so many seconds; half of their answers, in the
        mean, is still to come."""
        key = limit_s, prompt, answer
        if key not in self._known:
            free_s = self.per_before_s + 0.5 * self.grown_s if answer else self.per_before_s
            free_s = free_s + self.stalled_s if prompt else free_s
            kept_s = self.bound_s if answer else self.bound_before_s
            others_s = np.where(np.isfinite(self.bound_before_s), kept_s, free_s)
            self._known[key] = _within(others_s, self.per_spread, limit_s)
        return self._known[key]


class PerformanceModel:
    """Engines of one kind share what is known of the kind: a new one starts with it."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._kinds: list[KindTimes] = []
        self._first: list[Calibration] = []
        self._apart: list[Calibration] = []
        self._per: list[Calibration] = []
        self._lines = np.empty((0, 10))

    def number(self, kind: str) -> int:
        """Return the number of a kind, which is given when it is first asked for."""
        number = self._numbers.setdefault(kind, len(self._kinds))
        if number == len(self._kinds):
            self._kinds.append(KindTimes())
            self._first.append(Calibration(1))
            self._apart.append(Calibration(1))
            self._per.append(Calibration(2, has_offset=False))  # else a busy hour's would be an idle one's too
            self._lines = np.vstack([self._lines, [*self._first[-1].line, *self._per[-1].line, *self._apart[-1].line]])
        return number

    def engine(self, kind: str) -> EngineTimes:
        """Return the step times of a new engine of a kind."""
        return EngineTimes(self._kinds[self.number(kind)])

    def first_token_came(self, kind: str, raw_s: float, measured_s: float, *, apart: bool = False) -> None:
        """Learn how a prediction of the first token came out; `apart`: of a prompt for another engine."""
        number = self.number(kind)
        calibration = (self._apart if apart else self._first)[number]
        calibration.observe((raw_s,), measured_s)
        self._lines[number, APART if apart else FIRST] = calibration.line

    def tokens_came(self, kind: str, raw_s: float, fleet_s: float, measured_s: float) -> None:
        """Learn how a prediction of the time per token came out.

        While an answer goes on, sequences around it come and go, and what counts in the end is as much how busy all
        engines were: how much, is learnt.
        """
        number = self.number(kind)
        self._per[number].observe((raw_s, fleet_s), measured_s)
        self._lines[number, PER] = self._per[number].line

    def forecast(self, loads: Loads, work: Work, cached: Vector, now: float = 0.0, *, is_even: bool = True) -> Forecast:
        """Return what a request would see on each engine at `now`, `cached` [n] of its tokens being in the engine's
        cache; time must have passed for `loads` until then.

        `is_even`: all engines come to do the same in the long run; else what one does now tells most about it.
        """
        times = prompt_times(loads, np.maximum(1.0, work.context - cached), work.context, now)
        tokens = token_times(loads, work.context + work.answer / 2, work.limit_s)
        lines = self._lines[loads.kind].T
        first_offset, first_factor, first_spread = lines[FIRST]
        apart_offset, apart_factor, apart_spread = lines[APART]
        per_offset, per_own, per_fleet, per_spread = lines[PER]
        first_s = first_offset + first_factor * times.first

        def calibrated(raw_s: Vector, fleet_s: Vector) -> Vector:
            return np.asarray(per_offset + per_own * raw_s + per_fleet * fleet_s)

        fleet, raw_usual = _shared(tokens.after, is_even), usual_s(tokens, work.answer)
        per_s, per_before_s = calibrated(tokens.after, fleet), calibrated(tokens.before, fleet)
        grown = np.maximum(0.0, per_s - per_before_s)
        delay = loads.sequences * (times.own + 0.5 * work.answer * grown)  # half of their answers are still to come
        awaited = (work.waiting + float(loads.prompts.sum())) / max(1, len(per_s))
        answer_s = taken_s(loads, work.context + work.answer / 2, work.answer, per_s, work.limit_s)
        before_s, beside_s = awaited * times.own, SOON * awaited * answer_s
        return Forecast(
            first_s=first_s,
            first_spread=first_spread,
            apart_s=apart_offset + apart_factor * times.first,
            apart_spread=apart_spread,
            per_s=per_s,
            usual_s=calibrated(raw_usual, _shared(raw_usual, is_even)),
            per_spread=per_spread,
            per_before_s=per_before_s,
            stalled_s=times.own / work.typical,
            grown_s=grown,
            before_s=before_s,
            beside_s=beside_s,
            own_s=times.own,
            delay_s=delay,
            added_s=first_s + work.answer * per_s + delay + before_s + beside_s,
            others=loads.sequences,
            raw_first_s=times.first,
            raw_per_s=tokens.after,
            raw_fleet_s=fleet,
            alone_s=first_offset + first_factor * times.alone,
            backlog_s=times.backlog,
            step_s=tokens.step * per_s / tokens.after,
            stalls=tokens.stalls,
            stall_s=tokens.stall,
            bound_s=tokens.bound,
            bound_before_s=tokens.bound_before,
            answer=work.answer,
        )


def _shared(seconds: Vector, is_even: bool) -> Vector:
    """The mean of all engines where they are even, else each its own."""
    return np.full(len(seconds), seconds.sum() / len(seconds)) if is_even and len(seconds) else seconds


def _within(expected_s: Vector, spread: Vector, limit_s: float) -> Vector:
    """Probability of a log-normal quantity to be within a limit."""
    if limit_s <= 0.0:
        return np.zeros_like(expected_s)
    distance = np.log(limit_s / np.minimum(np.maximum(expected_s, 1e-9), 1e9)) / spread
    return normal(distance)
