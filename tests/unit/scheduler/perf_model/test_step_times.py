"""What is learnt about the step times of engines, and what a new engine of the kind starts with."""

import random
from collections.abc import Callable

import pytest

from sagellm_common.contracts.reports import StepSample
from sagellm_scheduler.perf_model.engine_times import EngineTimes
from sagellm_scheduler.perf_model.kinds import KindTimes
from sagellm_scheduler.perf_model.steps import table

Machine = Callable[[StepSample], float]


def machine(step: StepSample) -> float:
    """A machine whose matrix products are flat up to 32 rows."""
    return (
        4e-3
        + 1e-4 * step.prefill_tokens
        + 1e-4 * step.decode_seqs
        + 3e-7 * step.context_tokens
        + 2e-8 * step.chunk_x_context
        + 2e-4 * max(0, step.rows - 32)
    )


def steps(num: int, of: Machine = machine, *, seed: int = 0, noise: float = 0.03) -> list[StepSample]:
    """Steps of every sort, and how long they take on a machine."""
    chance = random.Random(seed)
    made = []
    for _ in range(num):
        prefill = chance.choice([0, 0, 0, 16, 100, 500])
        decode = chance.choice([1, 4, 16, 48]) if prefill == 0 else chance.choice([0, 8, 32])
        context = decode * chance.randrange(50, 2000)
        step = StepSample(
            0.0, prefill + decode, prefill, decode, context, prefill * chance.randrange(prefill + 1, 2000)
        )
        step.duration_s = of(step) * chance.lognormvariate(0.0, noise)
        made.append(step)
    return made


def worst(times: EngineTimes, of: Machine = machine) -> float:
    """Largest relative error over fresh steps."""
    fresh = steps(300, of, seed=77, noise=0.0)
    predicted = times.predict(table(fresh))
    return max(abs(p / s.duration_s - 1) for p, s in zip(predicted, fresh, strict=True))


def test_it_learns_an_engine_from_its_reports() -> None:
    """After 2,000 steps every sort of step is predicted within 10 %, the knee included."""
    times = EngineTimes(KindTimes())
    for second, start in enumerate(range(0, 2000, 50)):
        times.observe(steps(50, seed=start), float(second))
    assert times.knee == 32
    assert worst(times) < 0.10


def test_a_new_engine_starts_with_what_is_known_of_its_kind() -> None:
    """The second engine of a kind predicts within 15 % before it has reported anything."""
    kind = KindTimes()
    first = EngineTimes(kind)
    for second, start in enumerate(range(0, 2000, 50)):
        first.observe(steps(50, seed=start), float(second))
    assert worst(EngineTimes(kind)) < 0.15


def test_a_self_benchmark_is_a_start() -> None:
    """Twenty steps measured at the start bring the first predictions within a factor of 1.5 of the truth."""
    times = EngineTimes(KindTimes())
    times.benchmarked(steps(20))
    assert worst(times) < 0.5


def test_a_slower_engine_of_a_kind_is_learnt_apart() -> None:
    """Of two engines of a kind, one on a machine half as fast, each is predicted within 10 %."""
    kind = KindTimes()
    fast, slow = EngineTimes(kind), EngineTimes(kind)
    for second, start in enumerate(range(0, 3000, 50)):
        fast.observe(steps(50, seed=start), float(second))
        slow.observe(steps(50, lambda step: 2 * machine(step), seed=start + 1), float(second))
    assert worst(fast) < 0.10
    assert worst(slow, lambda step: 2 * machine(step)) < 0.10


def test_the_share_of_prefill_is_what_it_takes_of_the_time() -> None:
    """An engine that computes 500 prefill tokens in every tenth of a second spends half of its time on them."""
    times = EngineTimes(KindTimes())
    times.benchmarked(steps(600, noise=0.0))
    step = StepSample(0.0, 508, 500, 8, 8000, 500 * 500)
    step.duration_s = machine(step)
    prefill_s = step.duration_s - machine(StepSample(0.0, 8, 0, 8, 8000, 0))
    for tenth in range(1000):
        times.observe([step], tenth / 10)
    assert times.prefill_share == pytest.approx(min(1.0, prefill_s / 0.1), rel=0.1)


def test_reports_are_gathered_for_half_a_second() -> None:
    """A few samples change nothing at once; half a second later they do."""
    times = EngineTimes(KindTimes())
    assert not times.observe(steps(3), 0.0)
    assert times.num_samples == 0
    assert times.observe(steps(3), 0.5)
    assert times.num_samples == 6
