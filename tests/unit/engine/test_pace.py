"""Prompts get no more of a step than the answers beside them can spare."""

import pytest

from sagellm_common.pacing import MARGIN
from sagellm_engine.batching.pace import FIRST, UNBOUNDED, Pace, promised
from sagellm_engine.core.config import MockConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.self_benchmark import measure_steps
from sagellm_engine.core.types import StepReport
from support.engine import drain, request
from support.virtual_engine import Clock, virtual_core

TIMES = MockConfig(vocab_size=30_000, step_base_ms=5.0, ms_per_prefill_token=0.05, ms_per_decode_seq=0.1)
PROMPT = range(8000)
"""400 ms of computing."""


def engine(clock: Clock) -> EngineCore:
    """An engine that knows its step times from its self-benchmark."""
    core = virtual_core(clock, TIMES, max_batch_tokens=4096, prefix_cache=False)
    measure_steps(core, clock=clock)
    return core


def answering(clock: Clock, count: int = 4, **options: object) -> EngineCore:
    """An engine on which so many answers have begun, each of 400 tokens."""
    core = engine(clock)
    for number in range(count):
        core.submit(request(range(10), key=f"answer-{number}", max_tokens=400, **options), 0.0)
    core.step(0.0)
    return core


def steps_with(core: EngineCore, prompt: range = PROMPT) -> list[StepReport]:
    """The steps from now on in which a prompt is computed beside answers."""
    core.submit(request(prompt, key="prompt", max_tokens=1), 0.0)
    return [step for step in drain(core)[1] if step.prefill_tokens and step.decode_seqs]


def test_a_long_prompt_does_not_hold_up_answers_that_are_promised_their_pace() -> None:
    """Every step keeps to its share of 15 ms and uses it; the prompt takes as many as it needs."""
    steps = steps_with(answering(Clock(), itl_s=0.015))
    assert sum(step.prefill_tokens for step in steps) == len(PROMPT)
    for step in steps:
        assert step.duration_s <= MARGIN * 0.015 * 1.02
    for step in steps[:-1]:
        assert step.duration_s == pytest.approx(MARGIN * 0.015, rel=0.05)


def test_where_nothing_is_promised_a_prompt_takes_what_fits() -> None:
    """Two steps, of more than 200 ms the first."""
    steps = steps_with(answering(Clock()))
    assert [step.prefill_tokens for step in steps] == [4092, 3908]
    assert steps[0].duration_s > 0.2


def test_the_next_prompt_does_not_hold_up_a_first_token_whose_answer_is_promised_its_pace() -> None:
    """Of two prompts on an idle engine the first, 55 ms of computing, ends after as much and its share of 15 ms at
    most; the second, of 150 ms, goes on in the next steps."""
    core = engine(Clock())
    core.submit(request(range(1000), key="first", max_tokens=1, itl_s=0.015), 0.0)
    core.submit(request(range(5000, 8000), key="second", max_tokens=1, itl_s=0.015), 0.0)
    steps = [step for step in drain(core)[1] if step.prefill_tokens]
    assert steps[0].duration_s == pytest.approx(0.055 + MARGIN * 0.015 - 0.005, rel=0.02)
    assert sum(step.prefill_tokens for step in steps) == 4000
    assert len(steps) == 2


def test_prompts_without_a_promise_share_a_step() -> None:
    """The same two prompts, computed at once."""
    core = engine(Clock())
    core.submit(request(range(1000), key="first", max_tokens=1), 0.0)
    core.submit(request(range(5000, 8000), key="second", max_tokens=1), 0.0)
    assert [step.prefill_tokens for step in drain(core)[1]] == [4000]


def test_what_is_lost_anyway_holds_up_nobody() -> None:
    """A step takes 5.4 ms without any prompt: who asks for one cannot be served, and the prompt is not cut for it."""
    assert len(steps_with(answering(Clock(), itl_s=0.001))) == 2


def test_prompts_get_a_fifth_of_the_time_however_tight_it_is() -> None:
    """5.4 ms of answers and 5.6 promised: a step takes 5.4 / 0.8."""
    steps = steps_with(answering(Clock(), itl_s=0.0056), range(400))
    for step in steps[:-1]:
        assert step.duration_s == pytest.approx(0.0054 / 0.8, rel=0.05)


def test_the_least_promise_counts_as_long_as_its_answer_goes_on() -> None:
    """One of 10 ms among those of 100 ms; after its fifty tokens the steps are longer."""
    core = answering(Clock(), count=2, itl_s=0.1)
    core.submit(request(range(10), key="hasty", max_tokens=50, itl_s=0.010), 0.0)
    core.step(0.0)
    steps = steps_with(core, range(20_000))
    hasty = [step for step in steps if step.decode_seqs == 3]
    assert len(hasty) == 49
    assert max(step.duration_s for step in hasty) <= MARGIN * 0.010 * 1.02
    assert max(step.duration_s for step in steps) == pytest.approx(MARGIN * 0.1, rel=0.05)


def test_the_engine_follows_a_machine_that_becomes_slower() -> None:
    """Twice as slow as it was benchmarked: after forty steps with prompts they are as long as they may be again."""
    clock = Clock()
    core = answering(clock, itl_s=0.030)
    clock.slowness = 2.0
    steps = steps_with(core, range(20_000))
    assert steps[0].duration_s > 0.030
    for step in steps[40:]:
        assert step.duration_s <= MARGIN * 0.030 * 1.05


def test_the_gauges_tell_the_limit_that_is_kept() -> None:
    """While an answer goes on to which a pace is promised; 0 before and after."""
    core = engine(Clock())
    assert core.gauges().itl_limit_s == 0.0
    core.submit(request(range(10), key="a", max_tokens=3, itl_s=0.020), 0.0)
    core.step(0.0)
    core.step(0.0)
    assert core.gauges().itl_limit_s == 0.020
    drain(core)
    core.submit(request(range(10), key="b", max_tokens=3), 0.0)
    drain(core)
    assert core.gauges().itl_limit_s == 0.0


def test_nothing_is_cut_before_any_step_is_known() -> None:
    """Seven steps teach nothing yet, the eighth does; steps without rows count for none."""
    pace = Pace()
    for _ in range(FIRST - 1):
        pace.observe(StepReport(0.010, 101, 100, 1, 50, 10_000))
        pace.observe(StepReport())
    assert pace.answers_s(1, 50) == 0.0
    assert pace.chunk(0.015, 0.0, 0) > 10**6
    pace.observe(StepReport(0.010, 101, 100, 1, 50, 10_000))
    assert pace.chunk(0.015, pace.answers_s(1, 50), 0) < 10**6
    assert pace.chunk(UNBOUNDED, pace.answers_s(1, 50), 0) > 10**6


def test_what_can_be_kept_at_all_is_the_limit() -> None:
    """The least of those above what a step takes without prompts."""
    assert promised({0.030, 0.004, 0.020}, 0.005) == 0.020
    assert promised({0.004}, 0.005) == UNBOUNDED
