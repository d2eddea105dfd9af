"""Forecasts against what an engine's core really does, in virtual time: time to the first token, time per token."""

import math

import numpy as np
import pytest

from sagellm_common.contracts.reports import StepSample
from sagellm_engine.backends.mock import MockRunner
from sagellm_engine.core.config import EngineConfig, MockConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_scheduler.perf_model.engine_times import EngineTimes
from sagellm_scheduler.perf_model.forecast import (
    Loads,
    few_enough,
    idle_engines,
    pass_time,
    prefix_s,
    prompt_times,
    token_times,
    usual_s,
)
from sagellm_scheduler.perf_model.kinds import KindTimes
from sagellm_scheduler.perf_model.model import PerformanceModel, Work
from support.engine import request

BUDGET = 512
TIMES = MockConfig(vocab_size=5000, step_base_ms=5.0, ms_per_prefill_token=0.2, ms_per_decode_seq=0.4)


class Engine:
    """An engine's core whose time passes as its time model says, observed by a performance model."""

    def __init__(self, *, prefix_cache: bool = False) -> None:
        self.now = 0.0
        config = EngineConfig(backend="mock", mock=TIMES, max_batch_tokens=BUDGET, prefix_cache=prefix_cache)
        self.core = EngineCore(config, MockRunner(config, sleep=self._pass), clock=lambda: self.now)
        self.times = EngineTimes(KindTimes())
        self.came: dict[str, list[float]] = {}

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def submit(self, name: str, prompt: int, answer: int, *, itl_s: float | None = None, first: int = 0) -> None:
        tokens = range(first, first + prompt)
        self.core.submit(request(tokens, key=name, max_tokens=answer, itl_s=itl_s), self.now)

    def step(self) -> None:
        output = self.core.step(self.now)
        for token in output.tokens:
            self.came.setdefault(token.key[0], []).append(self.now)
        report = output.report
        sample = StepSample(
            report.duration_s,
            report.rows,
            report.prefill_tokens,
            report.decode_seqs,
            report.context_tokens,
            report.chunk_x_context,
        )
        self.times.observe([sample], self.now)

    def loads(self) -> Loads:
        gauges = self.core.gauges()
        loads = Loads.zeros(1)
        loads.coefficients[0] = self.times.coefficients
        loads.knee[0] = self.times.knee
        loads.decoding[0] = gauges.running - gauges.prefilling
        loads.sequences[0] = gauges.running + gauges.waiting
        loads.context[0] = gauges.running_tokens + gauges.waiting_tokens
        loads.backlog[0] = gauges.prefill_tokens
        loads.ends[0] = self.now
        loads.prompts[0] = gauges.waiting + gauges.prefilling
        loads.budget[0] = BUDGET
        loads.prefill_share[0], loads.stalls[0] = self.times.prefill_share, self.times.stalls_per_s
        loads.limit[0] = gauges.itl_limit_s
        return loads


@pytest.fixture
def engine() -> Engine:
    """An engine that has served requests of many sizes, idle."""
    return trained(Engine())


def trained(made: Engine) -> Engine:
    """Have it serve requests of many sizes, no two of which begin alike."""
    for number in range(60):
        made.submit(f"before-{number}", 20 + 37 * number % 900, 5 + number % 40, first=number + 1)
        for _ in range(6):
            made.step()
    while made.core.has_work():
        made.step()
    return made


def first_token_s(engine: Engine, prompt: int, first: int = 0) -> float:
    """Submit one more request and return how long its first token takes."""
    began = engine.now
    engine.submit("mine", prompt, 2, first=first)
    while "mine" not in engine.came:
        engine.step()
    return engine.came["mine"][0] - began


@pytest.mark.parametrize("decoding", [0, 10, 40])
@pytest.mark.parametrize("ahead", [0, 1, 4])
@pytest.mark.parametrize("prompt", [30, 400, 2000])
def test_the_first_token_comes_when_it_was_forecast(engine: Engine, decoding: int, ahead: int, prompt: int) -> None:
    """Behind prompts that wait and beside sequences that decode, within 15 % or one step's time."""
    for number in range(decoding):
        engine.submit(f"decoding-{number}", 50, 500)
    while engine.core.gauges().prefilling or engine.core.gauges().waiting:
        engine.step()
    for number in range(ahead):
        engine.submit(f"ahead-{number}", 700, 500)
    expected = prompt_times(engine.loads(), np.array([float(prompt)]), float(prompt), engine.now).first[0]
    step_s = (5.0 + 0.4 * decoding) / 1e3
    assert first_token_s(engine, prompt) == pytest.approx(expected, rel=0.15, abs=step_s)


@pytest.mark.parametrize("decoding", [0, 10])
@pytest.mark.parametrize("ahead", [1, 3])
def test_prompts_ahead_that_are_known_take_little(decoding: int, ahead: int) -> None:
    """Behind prompts that wait and of which all but a page is in the cache, within 15 % or one step's time."""
    engine = trained(Engine(prefix_cache=True))
    engine.submit("known", 1600, 2)
    for number in range(decoding):
        engine.submit(f"decoding-{number}", 50, 500)
    while engine.core.gauges().prefilling or engine.core.gauges().waiting:
        engine.step()
    for number in range(ahead):
        engine.submit(f"ahead-{number}", 1600, 500)
    assert engine.loads().backlog[0] == ahead * 16
    expected = prompt_times(engine.loads(), np.array([300.0]), 300.0, engine.now).first[0]
    step_s = (5.0 + 0.4 * decoding) / 1e3
    assert first_token_s(engine, 300, first=1000) == pytest.approx(expected, rel=0.15, abs=step_s)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("decoding", [0, 10])
def test_a_prompt_waits_for_what_is_left_of_the_step_under_way(engine: Engine, share: float, decoding: int) -> None:
    """A prompt that comes while another is being prefilled waits for the rest of that step, and has its own step."""
    for number in range(decoding):
        engine.submit(f"decoding-{number}", 50, 500)
    while engine.core.gauges().prefilling or engine.core.gauges().waiting:
        engine.step()
    engine.submit("ahead", 400, 500)
    began, loads = engine.now, engine.loads()
    engine.step()
    engine.submit("mine", 200, 2)
    comes = began + share * (engine.now - began)
    pass_time(loads, comes)
    expected = prompt_times(loads, np.array([200.0]), 200.0, comes).first[0]
    while "mine" not in engine.came:
        engine.step()
    assert engine.came["mine"][0] - comes == pytest.approx(expected, rel=0.1)


def test_steps_that_only_decode_keep_their_rhythm() -> None:
    """Nothing waits: the step under way ends at the next multiple of a step's time after the last that is known; an
    idle engine begins at once."""
    loads = Loads.zeros(2)
    loads.coefficients[:, 0], loads.budget[:], loads.ends[:] = 0.010, 512.0, 1.0
    loads.decoding[0] = 3.0
    pass_time(loads, 1.034)
    assert loads.ends.tolist() == pytest.approx([1.040, 1.034])


def test_half_of_short_answers_see_no_prompt_of_others() -> None:
    """Steps of 10 ms, one of 110 each second: 5 tokens usually take steps alone, 2,000 nearly their mean."""
    loads = Loads.zeros(1)
    loads.coefficients[0, 0], loads.knee[0], loads.budget[0] = 0.010, 32.0, 2048.0
    loads.prefill_share[0], loads.stalls[0] = 0.1, 1.0
    times = token_times(loads, 50.0)
    assert usual_s(times, 5.0)[0] == pytest.approx(0.010)
    assert usual_s(times, 2000.0)[0] == pytest.approx(times.after[0], rel=0.02)


@pytest.mark.parametrize("decoding", [1, 10, 50])
def test_tokens_come_as_forecast(engine: Engine, decoding: int) -> None:
    """The mean time per token beside sequences that decode is within 10 %."""
    for number in range(decoding - 1):
        engine.submit(f"decoding-{number}", 50, 500)
    while engine.core.gauges().prefilling or engine.core.gauges().waiting:
        engine.step()
    loads = engine.loads()
    loads.prefill_share[0] = 0.0  # nothing new will come
    expected = token_times(loads, 60.0).after[0]
    engine.submit("mine", 50, 20)
    while len(engine.came.get("mine", ())) < 20:
        engine.step()
    came = engine.came["mine"]
    assert (came[-1] - came[0]) / 19 == pytest.approx(expected, rel=0.10)


def test_prompts_of_others_lengthen_the_time_per_token(engine: Engine) -> None:
    """With prompts arriving all the time, the mean over a long answer is within 15 % of the forecast."""
    for number in range(200):
        if number % 10 == 0:
            engine.submit(f"stream-{number}", 200, 30)
        engine.step()
    expected = token_times(engine.loads(), 150.0).after[0]
    engine.submit("mine", 50, 200)
    number = 200
    while len(engine.came.get("mine", ())) < 200:
        if number % 10 == 0:
            engine.submit(f"stream-{number}", 200, 30)
        engine.step()
        number += 1
    came = engine.came["mine"]
    assert (came[-1] - came[0]) / 199 == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("mean", [0.01, 0.3, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("most", [-1.0, 0.0, 0.9, 1.0, 3.0, 10.0, 40.0])
def test_few_enough_is_poissons_distribution(mean: float, most: float) -> None:
    """Within two points of the exact sum."""
    exact = sum(math.exp(-mean) * mean**count / math.factorial(count) for count in range(math.floor(most) + 1))
    assert few_enough(np.array([most]), np.array([mean]))[0] == pytest.approx(exact, abs=0.02)


def test_a_prompt_between_two_tokens_costs_a_short_answer_its_slo() -> None:
    """Steps of 10 ms, and once a second one of 110: an ITL of 10.5 ms is met by most answers of 5 tokens, between which
    hardly ever a prompt comes, and by hardly any of 500, which have their share of them."""
    model, loads = PerformanceModel(), Loads.zeros(1)
    loads.coefficients[0, 0], loads.knee[0], loads.budget[0] = 0.010, 32.0, 2048.0
    loads.prefill_share[0], loads.stalls[0], loads.kind[0] = 0.1, 1.0, model.number("k")
    short, long = (
        float(model.forecast(loads, Work(50.0, answer), np.zeros(1), is_even=False).per_within(0.0105)[0])
        for answer in (5.0, 500.0)
    )
    assert long < 0.3 < 0.6 < short


def test_without_prompts_of_others_the_step_alone_decides() -> None:
    """Nearly certain well above it, nearly impossible well below."""
    model, loads = PerformanceModel(), Loads.zeros(1)
    loads.coefficients[0, 0], loads.knee[0], loads.budget[0] = 0.010, 32.0, 2048.0
    loads.kind[0] = model.number("k")
    forecast = model.forecast(loads, Work(50.0, 100.0), np.zeros(1), is_even=False)
    assert forecast.per_within(0.03)[0] > 0.99
    assert forecast.per_within(0.005)[0] < 0.01


@pytest.mark.parametrize("limit_s", [0.012, 0.020, 0.100])
def test_the_first_token_comes_as_forecast_where_prompts_are_cut(engine: Engine, limit_s: float) -> None:
    """Beside ten answers that are promised a pace, the first token of a long prompt is within 10 % of the forecast."""
    for number in range(10):
        engine.submit(f"promised-{number}", 20, 900, itl_s=limit_s)
    for _ in range(40):
        engine.step()
    loads = engine.loads()
    assert loads.limit[0] == limit_s
    expected = prompt_times(loads, np.array([2000.0]), 2000.0, engine.now).first[0]
    asked = engine.now
    engine.submit("mine", 2000, 2)
    while "mine" not in engine.came:
        engine.step()
    assert engine.came["mine"][0] - asked == pytest.approx(expected, rel=0.10)


def test_answers_whose_pace_is_kept_lose_nothing_to_a_prompt() -> None:
    """Steps of 10 ms and a prompt of 200: answers that half of 100 ms would hurt are safe where 15 ms are kept."""
    model, harmed = PerformanceModel(), {}
    for limit in (0.0, 0.015):
        loads = Loads.zeros(1)
        loads.coefficients[0, :2], loads.knee[0], loads.budget[0] = (0.010, 1e-4), 32.0, 4096.0
        loads.kind[0], loads.sequences[0], loads.decoding[0], loads.limit[0] = model.number("k"), 20.0, 20.0, limit
        forecast = model.forecast(loads, Work(2000.0, 50.0, typical=30.0), np.zeros(1), is_even=False)
        harmed[limit] = float(forecast.others_harmed(0.015)[0])
    assert harmed[0.015] < 0.2 * harmed[0.0]
    assert harmed[0.0] > 5.0


def test_engines_count_by_how_fast_they_prefill_beside_what_they_decode() -> None:
    """Two idle engines count as two, a third that takes twice as long a token as half; answers take their share."""
    loads = Loads.zeros(3)
    loads.coefficients[:, 1] = (1e-4, 1e-4, 2e-4)
    loads.coefficients[:, 2] = 1e-3
    loads.knee[:], loads.budget[:] = 1e9, 1000.0
    assert idle_engines(loads) == pytest.approx(2.5)
    loads.decoding[0] = 100
    beside = 900 / (0.1 + 0.09) / 10_000  # 900 tokens a step that takes 90 ms for them and 100 ms for the answers
    assert idle_engines(loads) == pytest.approx(1.5 + beside)
    loads.decoding[:], loads.coefficients[:, 5], loads.knee[:] = 0.0, 1e-4, 500.0
    idle = idle_engines(loads)
    loads.decoding[:], loads.coefficients[:, 2] = 400.0, 0.0
    assert idle_engines(loads) < idle, "rows of answers are rows, too"


def test_a_prefix_takes_an_idle_engine_its_tokens_and_their_context() -> None:
    """No more than the prompt that it begins: what every step costs counts once for a step's worth of tokens."""
    loads = Loads.zeros(2)
    loads.coefficients[:] = (5e-3, 1e-4, 0.0, 0.0, 1e-8, 0.0)
    loads.knee[:], loads.budget[:] = 1e9, 1000.0
    times = prefix_s(loads, np.array([0.0, 10_000.0]))
    assert times == pytest.approx([0.0, 10_000 * 1e-4 + 10 * 5e-3 + 1e-8 * 10_000**2 / 2])
