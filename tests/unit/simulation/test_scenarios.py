"""The four ways in which the documents use a deployment, in virtual time: what each policy is for, it does."""

from typing import Any

import pytest

from benchmarks.scenarios import Case, batch, cost, figures, low_latency, mixed, simulated


def outcomes(case: Case) -> list[dict[str, Any]]:
    """The figures of each way that a case is played."""
    return [figures(case, way, *simulated(case, way)) for way in case.ways]


@pytest.mark.acceptance(106)
def test_four_engines_do_a_batch_nearly_four_times_as_fast() -> None:
    """fifo and four engines with the data divided between them."""
    one, four = outcomes(batch())
    assert four["tokens_per_s"] > 3.4 * one["tokens_per_s"]
    assert one["groups"]["all"]["refused"] == four["groups"]["all"]["refused"] == 0


@pytest.mark.acceptance(107)
def test_chats_are_not_held_up_by_long_documents() -> None:
    """slo_aware with prefill on an engine of its own: all within the SLO, and a steadier stream than where none is
    promised."""
    whole, apart = outcomes(low_latency())
    assert apart["groups"]["chat"]["met"] >= 0.99
    assert apart["groups"]["document"]["met"] == 1.0
    assert whole["groups"]["chat"]["met"] < 0.9
    assert apart["groups"]["chat"]["itl_p95_ms"] < 0.75 * whole["groups"]["chat"]["itl_p95_ms"]
    assert apart["groups"]["chat"]["ttft_p95_ms"] < 0.25 * 1000.0


@pytest.mark.acceptance(108)
def test_the_critical_keep_their_half_second_in_an_overload() -> None:
    """Three times too much: under fifo most of them are late, by priority nearly none, and nobody is lost for it."""
    fifo, priority = outcomes(mixed())
    assert fifo["groups"]["CRITICAL"]["met"] < 0.3
    assert priority["groups"]["CRITICAL"]["met"] >= 0.95
    assert priority["groups"]["LOW"]["refused"] == 0
    assert priority["tokens_per_s"] == pytest.approx(fifo["tokens_per_s"], rel=0.02)


@pytest.mark.acceptance(109)
def test_what_costs_more_than_its_budget_is_refused_and_the_cheap_go_first() -> None:
    """A budget of 0.01 buys a second of an engine: prompts of 15,000 tokens take longer. Cheap ones wait for less."""
    fifo, cheap_first = outcomes(cost())
    for way in (fifo, cheap_first):
        assert way["groups"]["dear"]["refused"] == way["groups"]["dear"]["requests"] == 20
        assert way["groups"]["cheap"]["refused"] == 0
    assert cheap_first["groups"]["cheap"]["e2e_p50_ms"] < 0.95 * fifo["groups"]["cheap"]["e2e_p50_ms"]
