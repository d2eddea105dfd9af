"""The steps measured at an engine's start, and the gauges that predictions rest on."""

import pytest

from sagellm_engine.core.config import MockConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.self_benchmark import LIMIT_S, measure_steps
from support.engine import request
from support.virtual_engine import Clock, virtual_core


def engine(clock: Clock, *, step_ms: float = 2.0, **settings: object) -> EngineCore:
    """An idle mock core in virtual time."""
    times = MockConfig(step_base_ms=step_ms, ms_per_prefill_token=0.01, ms_per_decode_seq=0.1)
    return virtual_core(clock, times, **settings)


def test_it_measures_prompts_and_decoding_of_several_sizes() -> None:
    """There are steps with long prompts and steps that decode up to 32 at once, and each took what it takes."""
    clock = Clock()
    steps = measure_steps(engine(clock), clock=clock)
    assert max(step.prefill_tokens for step in steps) >= 1024
    assert {step.decode_seqs for step in steps if not step.prefill_tokens} == {1, 8, 32}
    for step in steps:
        expected = 2e-3 + 1e-5 * step.prefill_tokens + 1e-4 * step.decode_seqs
        assert step.duration_s == pytest.approx(expected)


def test_it_leaves_nothing_behind() -> None:
    """The engine is as idle as before: no pages in use or cached, nothing waiting, and it serves."""
    clock = Clock()
    core = engine(clock)
    before = core.gauges()
    measure_steps(core, clock=clock)
    assert core.gauges() == before
    core.check_invariants()
    core.submit(request([1, 2, 3], max_tokens=2), clock())
    while core.has_work():
        core.step(clock())


def test_a_slow_engine_measures_what_half_a_second_allows() -> None:
    """With steps of 0.2 s it stops after the work at hand, so that the start is not held up."""
    clock = Clock()
    steps = measure_steps(engine(clock, step_ms=200.0), clock=clock)
    assert len(steps) <= 3
    assert clock() < LIMIT_S + 1.0


def test_what_does_not_fit_is_left_out() -> None:
    """An engine that holds 64 tokens measures what does, and an engine that holds nothing measures nothing."""
    clock = Clock()
    small = measure_steps(engine(clock, num_pages=4, max_model_len=64), clock=clock)
    assert 0 < max(step.rows for step in small) <= 16
    assert measure_steps(engine(clock, num_pages=1, max_model_len=16), clock=clock) == ()


def test_gauges_tell_what_is_still_to_be_prefilled() -> None:
    """Of a prompt of 1,000 tokens in chunks of 256, what is left is told after every step; then it decodes."""
    clock = Clock()
    core = engine(clock, max_batch_tokens=256)
    core.submit(request(range(1000), max_tokens=3), clock())
    left = []
    while core.has_work():
        core.step(clock())
        gauges = core.gauges()
        left.append((gauges.prefilling, gauges.prefill_tokens, gauges.running))
    assert left == [(1, 744, 1), (1, 488, 1), (1, 232, 1), (0, 0, 1), (0, 0, 1), (0, 0, 0)]
