"""What is admitted, and what is refused with which error."""

from typing import Any

import pytest

from sagellm_common.contracts.scheduling import SubmitReply
from sagellm_common.settings import load_settings
from sagellm_scheduler.settings import SchedulerSettings
from support.scheduling import Driver


def code(reply: SubmitReply) -> str:
    assert reply.error is not None
    return str(reply.error["code"])


def test_a_submit_is_queued_and_assigned_with_its_engine_and_number() -> None:
    """A request for a ready engine is answered as queued and assigned at once."""
    driver = Driver.leading()
    driver.engine("e1")
    assert driver.submit("r1").status == "queued"
    (assignment,) = driver.assignments
    assert (assignment.request_id, assignment.engine_id, assignment.incarnation) == ("r1", "e1", "i1")
    assert assignment.number == 1


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named() -> None:
    """A model that no engine serves is refused at once, with the models that can be had."""
    driver = Driver.leading()
    driver.engine("e1", models=("small", "large"))
    reply = driver.submit("r1", model="huge")
    assert code(reply) == "not_found"
    assert reply.error is not None
    assert "large, small" in reply.error["message"]


def test_a_prompt_that_no_engine_can_hold_is_an_invalid_argument_at_once() -> None:
    """A prompt longer than every engine's context or KV memory is refused, one that one of them holds is not."""
    driver = Driver.leading()
    driver.engine("e1", max_model_len=100)
    driver.engine("e2", num_pages=10, page_size=16)
    assert code(driver.submit("r1", prompt_tokens=160)) == "invalid_argument"
    assert driver.submit("r2", prompt_tokens=159).status == "queued"
    assert [a.engine_id for a in driver.assignments] == ["e2"]


def test_a_full_queue_is_resource_exhausted_with_a_measured_retry_after() -> None:
    """Beyond the longest queue a submit is refused, and told to come back after queue length / service rate."""
    driver = Driver.leading(max_queue=4)
    driver.engine("e1", max_num_seqs=1)
    for number in range(11):
        driver.submit(f"served{number}")
        driver.now += 0.5
        driver.report("e1", running=1 if number == 10 else 0, last_assignment=number + 1)
    for number in range(4):
        assert driver.submit(f"waits{number}").status == "queued"
    reply = driver.submit("over")
    assert code(reply) == "resource_exhausted"
    assert reply.error is not None
    assert reply.error["retry_after_s"] == pytest.approx(4 / 2, rel=0.15)


def test_a_continued_stream_is_not_stopped_by_a_full_queue() -> None:
    """An epoch above 0 was admitted before, so the length of the queue does not refuse it."""
    driver = Driver.leading(max_queue=1)
    driver.engine("e1", max_num_seqs=1)
    driver.submit("runs")
    driver.submit("waits")
    assert code(driver.submit("new")) == "resource_exhausted"
    assert driver.submit("stream", epoch=1, delivered_tokens=5).status == "queued"


def test_a_request_that_waits_too_long_is_rejected_by_a_notice() -> None:
    """After the longest queue time a waiting request is given up, with an error that says when to retry."""
    driver = Driver.leading(max_queue_time_s=3)
    driver.engine("e1", max_num_seqs=1)
    driver.submit("runs")
    driver.report("e1", running=1, last_assignment=1)
    driver.submit("waits")
    driver.wait(2.9, alive=("e1",))
    assert driver.notices == []
    driver.wait(0.2, alive=("e1",))
    (notice,) = driver.notices
    assert (notice.kind, notice.request_id, notice.epoch) == ("rejected", "waits", 0)
    assert notice.error is not None
    assert notice.error["code"] == "resource_exhausted"
    assert notice.error["retry_after_s"] > 0


def test_a_deadline_that_passes_in_the_queue_is_deadline_exceeded() -> None:
    """A request whose own deadline passes while it waits is rejected with the typed error, counted from acceptance."""
    driver = Driver.leading()
    driver.engine("e1", max_num_seqs=1)
    driver.submit("runs")
    driver.submit("waits", slo={"deadline_ms": 1000}, age_ms=500)
    driver.report("e1", running=1, last_assignment=1)
    driver.wait(0.45, alive=("e1",))
    assert driver.notices == []
    driver.wait(0.2, alive=("e1",))
    assert [notice.error["code"] for notice in driver.notices if notice.error] == ["deadline_exceeded"]


def test_without_a_ready_engine_a_request_waits_a_bounded_time() -> None:
    """A model whose engines all drain keeps its requests queued, then rejects them as unavailable with the reason."""
    driver = Driver.leading(no_engine_timeout_s=5)
    driver.engine("e1")
    driver.report("e1", state="draining")
    assert driver.submit("r1").status == "queued"
    driver.wait(4.5, alive=("e1",))
    assert driver.notices == []
    driver.wait(0.6, alive=("e1",))
    (notice,) = driver.notices
    assert notice.error is not None
    assert notice.error["code"] == "unavailable"
    assert "e1: draining" in notice.error["message"]


def test_a_request_set_aside_is_placed_when_an_engine_is_ready_again() -> None:
    """A request that found no ready engine goes out as soon as one is."""
    driver = Driver.leading()
    driver.engine("e1")
    driver.report("e1", state="draining")
    driver.submit("r1")
    driver.wait(1, alive=("e1",))
    assert driver.order == []
    driver.report("e1", state="ready")
    assert driver.order == ["r1"]


def test_a_request_without_engine_holds_up_nobody_behind_it() -> None:
    """Only the small engine is ready: the large prompt is set aside, the small ones behind it go."""
    driver = Driver.leading()
    driver.engine("large", max_model_len=4096)
    driver.engine("small", max_model_len=100)
    driver.report("large", state="draining")
    driver.submit("big", prompt_tokens=1000)
    driver.submit("little")
    assert driver.order == ["little"]
    driver.report("large", state="ready")
    assert driver.order == ["little", "big"]


def test_a_large_prompt_is_not_starved_by_small_ones() -> None:
    """While KV memory is short the head of the queue waits for room and those behind it wait too."""
    driver = Driver.leading(backlog_s=60.0)
    driver.engine("e1", num_pages=100, page_size=16, max_num_seqs=8)
    driver.report("e1", running=1, used_pages=60)
    driver.submit("big", prompt_tokens=900)
    driver.submit("little")
    assert driver.order == []
    driver.report("e1", running=1, used_pages=20)
    assert driver.order == ["big", "little"]


@pytest.mark.parametrize(
    "nonsense",
    [
        {"age_ms": float("nan")},
        {"age_ms": float("inf")},
        {"age_ms": -1e300},
        {"num_choices": -5},
        {"num_choices": 10**30},
        {"max_tokens": 10**400},
        {"prompt_tokens": 10**400},
        {"delivered_tokens": -(10**30)},
        {"delivered_tokens": 10**400},
        {"prefix_hash": -(10**40)},
        {"epoch": 10**50},
        {"slo": {"deadline_ms": float("inf")}},
        {"failed_engines": ("nobody",) * 10_000},
    ],
)
def test_nonsense_in_a_submit_harms_nobody_else(nonsense: dict[str, Any]) -> None:
    """Whatever a submit states, it gets one answer, and the next request is served in its turn."""
    driver = Driver.leading(router="locality")
    driver.engine("e1", max_num_seqs=64)
    driver.submit("strange", **nonsense)
    driver.wait(0.1, alive=("e1",))
    assert driver.submit("plain").status == "queued"
    driver.report("e1", last_assignment=1)
    assert "plain" in driver.order


def test_an_empty_setting_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAGELLM_ADMISSION_SLACK left empty refuses nobody for what is predicted; unset, it is 1."""
    assert load_settings(SchedulerSettings).admission_slack == 1.0
    monkeypatch.setenv("SAGELLM_ADMISSION_SLACK", "")
    monkeypatch.setenv("SAGELLM_SLO_TTFT_MS", "")
    settings = load_settings(SchedulerSettings)
    assert (settings.admission_slack, settings.slo_ttft_ms) == (None, None)
