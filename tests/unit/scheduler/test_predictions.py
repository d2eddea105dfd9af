"""Predictions at work: routing by harm, admission with Retry-After, budgets, records with errors and causes."""

from collections import Counter
from typing import Any
from unittest.mock import Mock

import pytest

from sagellm_common.contracts.decisions import DecisionRecord
from sagellm_common.contracts.reports import EngineReport, StepSample
from sagellm_common.contracts.scheduling import SubmitReply
from sagellm_common.contracts.slo import Slo
from sagellm_scheduler.core import events
from support.scheduling import EPOCH, Driver, report

Steps = tuple[tuple[float, int, int, int, int, int], ...]


def benchmark(base_s: float, prefill_s: float, decode_s: float) -> Steps:
    """Steps of a machine: seconds a step, a prefill token, a decoding sequence."""
    work = [(p, d) for p in (0, 16, 256, 1024) for d in (0, 1, 8, 32) if p + d]
    return tuple((base_s + p * prefill_s + d * decode_s, p + d, p, d, 50 * d, p * p) for p, d in work)


FAST, SLOW = benchmark(5e-3, 1e-4, 1e-4), benchmark(15e-3, 3e-4, 3e-4)


def fleet(driver: Driver, **engines: Steps) -> None:
    """Engines of different speed, each of a kind of its own."""
    for name, steps in engines.items():
        driver.engine(name, kind=name, benchmark=steps, max_num_seqs=64, num_pages=100_000, max_model_len=32_000)


def last_record(driver: Driver) -> DecisionRecord:
    return driver.records[-1].record


def error_of(reply: SubmitReply) -> dict[str, Any]:
    assert reply.error is not None
    return reply.error


def test_predictive_gives_a_faster_engine_more() -> None:
    """Of 40 requests, the engine that is three times as fast gets most, and the other is not left idle."""
    driver = Driver.leading(router="predictive", backlog_s=60.0)
    fleet(driver, fast=FAST, slow=SLOW)
    for number in range(40):
        driver.submit(f"r{number}", prompt_tokens=200, max_tokens=100)
    chosen = Counter(assignment.engine_id for assignment in driver.assignments)
    assert 40 > chosen["fast"] > 24


def test_predictive_spreads_a_burst_over_equal_engines() -> None:
    """Equal engines get equally much, though no report comes in between."""
    driver = Driver.leading(router="predictive")
    fleet(driver, a=FAST, b=FAST, c=FAST, d=FAST)
    for number in range(32):
        driver.submit(f"r{number}", prompt_tokens=100)
    assert set(Counter(a.engine_id for a in driver.assignments).values()) == {8}


def test_predictive_keeps_a_long_prompt_from_where_it_would_make_others_late() -> None:
    """A request that asks for 12 ms a token goes to the slower engine that it does not crowd, not to the faster one
    whose 30 sequences would no longer have their tokens in time."""
    driver = Driver.leading(router="predictive", default_slo=Slo(itl_ms=12))
    fleet(driver, crowded=benchmark(5e-3, 1e-4, 2e-4), idle=benchmark(9e-3, 2e-4, 2e-4))
    driver.report("crowded", running=34, used_pages=200)
    driver.submit("r1", prompt_tokens=100)
    assert driver.order == ["r1"]
    assert driver.assignments[0].engine_id == "idle"


def test_a_record_lists_what_was_predicted_for_every_candidate() -> None:
    """Each candidate has a predicted TTFT and inter-token time; the slower one's are longer; the choice has its own."""
    driver = Driver.leading(router="predictive")
    fleet(driver, fast=FAST, slow=SLOW)
    driver.submit("r1", prompt_tokens=500, max_tokens=20)
    decision = last_record(driver).decisions[0]
    predicted = {c.engine_id: (c.predicted_ttft_ms or 0.0, c.predicted_itl_ms or 0.0) for c in decision.candidates}
    assert predicted["slow"][0] == pytest.approx(3 * predicted["fast"][0], rel=0.1)
    assert predicted["slow"][1] == pytest.approx(3 * predicted["fast"][1], rel=0.1)
    assert (decision.predicted_ttft_ms, decision.predicted_itl_ms) == predicted["fast"]
    assert predicted["fast"][0] == pytest.approx(5 + 500 * 0.1, rel=0.2)


def test_a_record_shows_what_the_choice_costs_others() -> None:
    """An engine that is faster for the request is not chosen, for its 30 sequences would wait for the prompt, each 20
    ms and more; the record says so in the figures by which it was decided."""
    driver = Driver.leading(router="predictive")
    fleet(driver, crowded=FAST, idle=benchmark(8e-3, 1.6e-4, 1.6e-4))
    driver.report("crowded", running=30, used_pages=200)
    driver.submit("r1", prompt_tokens=200, max_tokens=20)
    candidates = {c.engine_id: c for c in last_record(driver).decisions[0].candidates}
    crowded, idle = candidates["crowded"], candidates["idle"]
    assert last_record(driver).decisions[0].chosen == "idle"
    assert (crowded.predicted_ttft_ms or 0.0) < (idle.predicted_ttft_ms or 0.0)
    assert crowded.predicted_delay_ms == pytest.approx(30 * 200 * 0.1, rel=0.3)
    assert idle.predicted_delay_ms == 0.0
    assert (crowded.predicted_misses, idle.predicted_misses) == (0.0, 0.0)


def test_the_answer_to_a_submit_predicts_the_first_token() -> None:
    """An idle engine promises the prompt's own time; behind a queue the promise is longer."""
    driver = Driver.leading(backlog_s=0.05)
    fleet(driver, fast=FAST)
    first = driver.submit("r0", prompt_tokens=1000).predicted_ttft_ms
    assert first == pytest.approx(105, rel=0.2)
    for number in range(1, 10):
        last = driver.submit(f"r{number}", prompt_tokens=1000).predicted_ttft_ms
    assert last == pytest.approx(10 * 105, rel=0.3)


def test_who_would_come_too_late_is_refused_and_told_when_to_come_again() -> None:
    """Behind two seconds of prompts a request with a TTFT of one second is refused; Retry-After is the difference."""
    driver = Driver.leading(backlog_s=0.05)
    fleet(driver, fast=FAST)
    for number in range(20):
        driver.submit(f"r{number}", prompt_tokens=1000)
    refused = driver.submit("late", prompt_tokens=100, slo=Slo(ttft_ms=1000))
    assert error_of(refused)["code"] == "resource_exhausted"
    assert error_of(refused)["retry_after_s"] == pytest.approx(1.0, rel=0.4)
    assert driver.submit("patient", prompt_tokens=100, slo=Slo(ttft_ms=10_000)).status == "queued"
    assert driver.submit("states nothing", prompt_tokens=100).status == "queued"


def test_what_even_an_idle_engine_cannot_do_in_time_is_served_as_well_as_can_be() -> None:
    """A prompt of a second with a TTFT of 0.1 s is not refused: it would never be admitted."""
    driver = Driver.leading()
    fleet(driver, fast=FAST)
    assert driver.submit("r1", prompt_tokens=10_000, slo=Slo(ttft_ms=100)).status == "queued"


def test_prediction_can_be_told_to_refuse_nobody() -> None:
    """Without admission by prediction the late request waits like the others."""
    driver = Driver.leading(backlog_s=0.05, admission_slack=None)
    fleet(driver, fast=FAST)
    for number in range(20):
        driver.submit(f"r{number}", prompt_tokens=1000)
    assert driver.submit("late", prompt_tokens=100, slo=Slo(ttft_ms=1000)).status == "queued"


@pytest.mark.acceptance(86)
def test_a_budget_that_cannot_be_met_is_refused_with_the_estimate() -> None:
    """A second of an engine that costs 3,600 an hour costs 1: a budget of 0.01 is refused, one of 100 is not."""
    driver = Driver.leading()
    driver.engine("e1", kind="k", benchmark=FAST, price_per_hour=3600.0, num_pages=100_000, max_model_len=32_000)
    refused = driver.submit("dear", prompt_tokens=1000, max_tokens=100, cost_budget=0.01)
    assert error_of(refused)["code"] == "invalid_argument"
    assert error_of(refused)["param"] == "cost_budget"
    assert "expected to cost 0.6" in error_of(refused)["message"]
    assert driver.submit("cheap", prompt_tokens=1000, max_tokens=100, cost_budget=100.0).status == "queued"


def test_engines_are_given_half_a_second_of_prompts_at_most() -> None:
    """Of ten prompts of 0.2 s each three go out at once; the others wait where the policy can still order them."""
    driver = Driver.leading(backlog_s=0.5)
    fleet(driver, fast=FAST)
    for number in range(10):
        driver.submit(f"r{number}", prompt_tokens=2000)
    assert len(driver.assignments) == 3


def test_engines_teach_the_model_what_they_report() -> None:
    """Reports of steps three times as long as those of the self-benchmark make the predictions three times as long."""
    driver = Driver.leading()
    fleet(driver, e1=FAST)
    before = last_prediction(driver, "r0")
    steps = [StepSample(3 * s[0], *s[1:]) for s in FAST]
    for _ in range(80):
        driver.now += 0.5
        plain = report(driver.engines["e1"], next(driver.numbers), leader_epoch=EPOCH)
        driver.feed(
            events.EngineReported(
                EngineReport(
                    plain.engine_id, plain.incarnation, plain.number, plain.gauges, list(EPOCH), 99, steps=steps
                )
            )
        )
    assert last_prediction(driver, "r1") == pytest.approx(3 * before, rel=0.15)


def test_a_request_that_is_placed_at_once_is_predicted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What admission has asked of the model, placement needs not ask again: it is most of a decision's time."""
    driver = Driver.leading(router="predictive")
    fleet(driver, fast=FAST, slow=SLOW)
    forecast = Mock(side_effect=driver.core.fleet.performance.forecast)
    monkeypatch.setattr(driver.core.fleet.performance, "forecast", forecast)
    driver.submit("r", prompt_tokens=100)
    assert len(driver.assignments) == forecast.call_count == 1


def last_prediction(driver: Driver, name: str) -> float:
    driver.submit(name, prompt_tokens=500)
    predicted = last_record(driver).decisions[0].predicted_ttft_ms
    driver.end(name)
    assert predicted is not None
    return predicted


def test_predictions_learn_what_lies_outside_of_the_engine() -> None:
    """Where every first token comes 40 ms later than the steps say, the prediction does so too after 60 requests."""
    driver = Driver.leading()
    fleet(driver, e1=FAST)
    for number in range(60):
        driver.now += 1.0
        driver.report("e1", last_assignment=number)
        tokens = 100 + 37 * number % 900
        driver.submit(f"r{number}", prompt_tokens=tokens)
        driver.end(f"r{number}", ttft_ms=40 + 5 + tokens * 0.1, completion_tokens=5)
    driver.now += 1.0
    driver.report("e1", last_assignment=60)
    driver.submit("mine", prompt_tokens=500)
    assert last_record(driver).decisions[0].predicted_ttft_ms == pytest.approx(95, rel=0.05)


def test_a_record_says_how_far_off_the_prediction_was() -> None:
    """A first token after 110 ms where 55 were promised is an error of one half."""
    driver = Driver.leading()
    fleet(driver, e1=FAST)
    driver.submit("r1", prompt_tokens=500)
    promised = last_record(driver).decisions[0].predicted_ttft_ms
    assert promised is not None
    driver.end("r1", ttft_ms=2 * promised, itl_mean_ms=1.0, completion_tokens=10)
    assert last_record(driver).ttft_error == pytest.approx(0.5, abs=0.001)
    assert last_record(driver).itl_error is not None


@pytest.mark.parametrize(
    ("figures", "missed", "cause"),
    [
        ({"ttft_ms": 900.0}, None, None),
        ({"ttft_ms": 1200.0}, "ttft", "prefill"),
        ({"ttft_ms": 5000.0}, "ttft", "queue"),
        ({"ttft_ms": 500.0, "itl_mean_ms": 80.0}, "itl", "decode interference"),
        ({"ttft_ms": 900.0, "e2e_ms": 11_000.0}, "deadline", "decode interference"),
        ({"ttft_ms": 1200.0, "epoch": 1}, "ttft", "engine loss"),
    ],
)
def test_a_record_says_what_made_a_request_miss_its_slo(
    figures: dict[str, Any], missed: str | None, cause: str | None
) -> None:
    """Its own prompt if that took most of the time, waiting else; for later tokens those that run beside it."""
    driver = Driver.leading()
    fleet(driver, e1=FAST)
    driver.submit("r1", prompt_tokens=9000, slo=Slo(ttft_ms=1000, itl_ms=50, deadline_ms=10_000))
    if figures.get("epoch"):
        driver.submit("r1", epoch=1, prompt_tokens=9000, slo=Slo(ttft_ms=1000))
    driver.end("r1", **figures)
    assert (last_record(driver).missed, last_record(driver).cause) == (missed, cause)


def test_what_would_decode_too_slowly_is_refused_with_when_to_try_again() -> None:
    """Beside 60 sequences a token takes 11 ms: an ITL of 9 ms is refused, one of 15 is not; 3 ms nobody could do."""
    driver = Driver.leading(router="predictive")
    fleet(driver, a=FAST)
    driver.report("a", running=60, used_pages=300)
    refused = error_of(driver.submit("r1", prompt_tokens=20, max_tokens=100, slo={"itl_ms": 9.0}))
    assert refused["code"] == "resource_exhausted"
    assert "slower than the 9 ms asked for" in refused["message"]
    assert 0.1 <= refused["retry_after_s"] <= 1.0
    for number, itl_ms in enumerate((15.0, 3.0)):
        assert driver.submit(f"s{number}", prompt_tokens=20, slo={"itl_ms": itl_ms}).status == "queued"


def test_a_stream_that_has_begun_is_not_refused_for_its_pace() -> None:
    """An epoch above 0 goes on, however slowly."""
    driver = Driver.leading(router="predictive")
    fleet(driver, a=FAST)
    driver.report("a", running=60, used_pages=300)
    assert driver.submit("r1", epoch=1, prompt_tokens=20, slo={"itl_ms": 9.0}).status == "queued"


def test_what_would_cost_others_their_slos_is_refused() -> None:
    """Forty answers run close to their limit: a short prompt is still taken, a long one, which could be answered in
    time itself, is refused for what it would do to them, and told when to come again."""
    slo = {"ttft_ms": 2000.0, "itl_ms": 9.6}
    driver = Driver.leading(router="predictive", backlog_s=60.0)
    fleet(driver, e1=FAST)
    for number in range(40):
        driver.submit(f"r{number}", prompt_tokens=20, max_tokens=100)
    driver.report("e1", running=40, last_assignment=40)
    short = driver.submit("short", prompt_tokens=20, max_tokens=100, slo=slo)
    long = driver.submit("long", prompt_tokens=4000, max_tokens=100, slo=slo)
    alone = Driver.leading(router="predictive", backlog_s=60.0)
    fleet(alone, e1=FAST)
    assert alone.submit("long", prompt_tokens=4000, max_tokens=100, slo=slo).status == "queued"
    assert short.status == "queued"
    assert error_of(long)["code"] == "resource_exhausted"
    assert "those of others" in error_of(long)["message"]
    assert 0.1 <= error_of(long)["retry_after_s"] <= 2.0


def test_who_will_be_late_lets_the_next_go_that_will_not() -> None:
    """A prompt of half a second can no longer be in time when there is room: the short one behind it goes first, and
    the long one after it."""
    driver = Driver.leading(router="predictive", queue="slo_aware", backlog_s=0.05, admission_slack=None)
    fleet(driver, e1=FAST)
    driver.submit("first", prompt_tokens=4000)
    driver.submit("long", prompt_tokens=5000, slo={"ttft_ms": 800.0})
    driver.submit("short", prompt_tokens=100, slo={"ttft_ms": 2000.0})
    assert driver.order == ["first"]
    driver.now += 0.5
    driver.report("e1", running=1, last_assignment=1)
    assert driver.order == ["first", "short", "long"]


def test_in_order_of_arrival_nobody_gives_way() -> None:
    """`fifo` does what it says, however late."""
    driver = Driver.leading(router="predictive", queue="fifo", backlog_s=0.05, admission_slack=None)
    fleet(driver, e1=FAST)
    driver.submit("first", prompt_tokens=4000)
    driver.submit("long", prompt_tokens=5000, slo={"ttft_ms": 800.0})
    driver.submit("short", prompt_tokens=100, slo={"ttft_ms": 2000.0})
    driver.now += 0.5
    driver.report("e1", running=1, last_assignment=1)
    driver.now += 0.5
    driver.report("e1", running=1, last_assignment=2)
    assert driver.order == ["first", "long", "short"]


@pytest.mark.parametrize(("stated", "promised"), [({}, 15.0), ({"itl_ms": 8.0}, 8.0), ({"ttft_ms": 300.0}, 15.0)])
def test_the_engine_is_told_the_pace_that_is_promised(stated: dict[str, float], promised: float) -> None:
    """What the request states, or else what all are promised, is in the assignment."""
    driver = Driver.leading(default_slo=Slo(itl_ms=15.0))
    fleet(driver, e1=FAST)
    driver.submit("r1", slo=stated)
    assert driver.assignments[-1].itl_ms == promised


def test_prompts_are_expected_to_take_longer_where_they_are_cut() -> None:
    """Twenty answers of 7 ms a step, for whose sake the engine says that it keeps to 12: a prompt of 2,000 tokens gets
    3 ms of each step, and not one of 200."""
    first_ms = {}
    for limit_s in (0.0, 0.012):
        driver = Driver.leading(router="predictive", backlog_s=60.0)
        fleet(driver, e1=FAST)
        for number in range(20):
            driver.submit(f"r{number}", prompt_tokens=20, max_tokens=30)
        driver.report("e1", running=20, last_assignment=20, itl_limit_s=limit_s)
        driver.submit("long", prompt_tokens=2000, max_tokens=100)
        first_ms[limit_s] = driver.records[-1].record.decisions[-1].predicted_ttft_ms or 0.0
    assert 150.0 < first_ms[0.0] < 300.0
    assert 2.0 * first_ms[0.0] < first_ms[0.012] < 1000.0
