"""Requests that wait let others go first where not all can be in time: who does, who does not, and what it costs."""

import pytest

from sagellm_common.contracts.slo import Slo
from support.scheduling import Driver

STEPS = tuple((0.005 + 0.0001 * p + 0.0004 * d, p + d, p, d, 20 * d, 0) for p in (0, 16, 256, 1024) for d in (1, 8, 32))
"""A self-benchmark: 0.1 ms a token of a prompt."""


def with_engine(queue: str = "slo_aware", *, slots: int = 1, **fields: object) -> Driver:
    """A leader with an engine that takes the request `before`, and no more if it has one slot."""
    driver = Driver.leading(queue=queue, admission_slack=None, **fields)  # type: ignore[arg-type] # as the tests name them
    driver.engine("e1", kind="k", benchmark=STEPS, max_num_seqs=slots, num_pages=10_000, max_model_len=50_000)
    driver.submit("before")
    return driver


def go_on(driver: Driver) -> None:
    """Let what was assigned last be done, a twentieth of a second later."""
    done, number = driver.order[-1], driver.assignments[-1].number
    driver.now += 0.05
    driver.report("e1", running=0, last_assignment=number)
    driver.end(done)


def gave_way(driver: Driver) -> list[str]:
    """Who let others go first, by the records."""
    placed = {publish.record.request_id: publish.record.decisions for publish in driver.records}
    return sorted(name for name, decisions in placed.items() if decisions and decisions[-1].gave_way)


def test_nobody_gives_way_while_no_engine_is_ready() -> None:
    """Two requests wait while their engine is busy, then draining, then back: they go in their order, and neither has
    let the other go first."""
    driver = with_engine(default_slo=Slo(ttft_ms=60_000))
    driver.submit("long", prompt_tokens=8000)
    driver.submit("short", prompt_tokens=300)
    driver.report("e1", state="draining", running=1, last_assignment=1)
    driver.end("before")
    driver.report("e1", state="draining", last_assignment=1)
    assert driver.order == ["before"]
    driver.report("e1", last_assignment=1)
    assert driver.order == ["before", "long"]
    assert gave_way(driver) == []


@pytest.mark.parametrize(("queue", "first"), [("slo_aware", "s0"), ("fifo", "long")])
def test_a_long_prompt_gives_way_to_those_that_it_would_make_late(queue: str, first: str) -> None:
    """While an engine is busy a long prompt and six short ones come that cannot all be in time: with `slo_aware` the
    short ones go first and are in time, and the long one goes last; nobody is lost."""
    driver = with_engine(queue, default_slo=Slo(ttft_ms=900))
    driver.submit("long", prompt_tokens=8000)
    for number in range(6):
        driver.submit(f"s{number}", prompt_tokens=300)
    for _ in range(7):
        go_on(driver)
    assert driver.order[1] == first
    assert sorted(driver.order) == sorted(["before", "long", *(f"s{number}" for number in range(6))])
    assert (driver.order[-1] == "long") is (queue == "slo_aware")
    assert gave_way(driver) == ["long"] * (queue == "slo_aware")


def test_who_is_next_is_tried_before_anybody_gives_way() -> None:
    """A request with hardly any time left goes first when a slot comes free in time, though another waits."""
    driver = with_engine()
    driver.submit("tight", slo=Slo(ttft_ms=220))
    driver.submit("loose", slo=Slo(ttft_ms=5000))
    go_on(driver)
    assert driver.order == ["before", "tight"]


def test_a_lone_request_does_not_give_way() -> None:
    """What cannot be in time and has nobody to let go first is placed at once; the record does not say otherwise."""
    driver = with_engine(slots=4)
    driver.submit("hopeless", prompt_tokens=20_000, slo=Slo(ttft_ms=50))
    assert driver.order[-1] == "hopeless"
    assert gave_way(driver) == []


def test_who_gave_way_keeps_its_deadline() -> None:
    """A request whose first token is too late still goes in time for its last one, before those that came later."""
    driver = with_engine()
    driver.submit("long", prompt_tokens=8000, slo=Slo(ttft_ms=1500, deadline_ms=6000))
    for number in range(6):
        driver.submit(f"s{number}", prompt_tokens=300, slo=Slo(ttft_ms=900))
    driver.submit("later", slo=Slo(ttft_ms=9000))
    for _ in range(7):
        go_on(driver)
    assert driver.order == ["before", *(f"s{number}" for number in range(6)), "long"]
    assert gave_way(driver) == ["long"]


def test_a_stream_that_goes_on_gives_way_to_nobody() -> None:
    """Its first token came before its engine was lost: it is not late for it, and goes before all that wait."""
    driver = with_engine(default_slo=Slo(ttft_ms=1000))
    for number in range(4):
        driver.submit(f"r{number}", prompt_tokens=2000)
    driver.submit("stream", epoch=1, age_ms=3000, delivered_tokens=40, prompt_tokens=9000)
    go_on(driver)
    assert driver.order[-1] == "stream"
    assert "stream" not in gave_way(driver)


@pytest.mark.parametrize("queue", ["fifo", "fair", "adaptive"])
def test_under_policies_that_do_not_mind_the_time_nobody_gives_way(queue: str) -> None:
    """Late requests keep their place, and a user is not charged twice; `adaptive` begins in order of arrival."""
    driver = with_engine(queue, default_slo=Slo(ttft_ms=100))
    for number in range(5):
        driver.submit(f"r{number}", prompt_tokens=4000)
    for _ in range(5):
        go_on(driver)
    assert driver.order == ["before", *(f"r{number}" for number in range(5))]
    assert gave_way(driver) == []


def test_what_was_set_aside_counts_as_work_when_an_engine_is_back() -> None:
    """Twenty prompts of a second each came while no engine was ready: who comes next is told that it will take long."""
    driver = Driver.leading(queue="slo_aware")
    driver.engine("e1", kind="k", benchmark=STEPS, max_num_seqs=64, num_pages=100_000, max_model_len=50_000)
    driver.report("e1", state="draining")
    for number in range(20):
        driver.submit(f"r{number}", prompt_tokens=10_000)
    driver.report("e1")
    reply = driver.submit("next", slo=Slo(ttft_ms=2000))
    assert reply.error is not None
    assert reply.error["code"] == "resource_exhausted"
