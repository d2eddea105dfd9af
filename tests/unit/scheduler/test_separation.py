"""Prefill and decode on two engines: when, which, what it reserves, and what comes of it."""

from typing import Any

import pytest

from sagellm_common.contracts.scheduling import OpenRequest
from sagellm_common.errors import InvalidArgument
from sagellm_scheduler.core import events
from sagellm_scheduler.core.actions import PublishRecord
from sagellm_scheduler.queueing.fifo import Fifo
from sagellm_scheduler.routing.load_balanced import LoadBalanced
from sagellm_scheduler.separation.adaptive import Adaptive
from sagellm_scheduler.separation.policy import SEPARATION_POLICIES, Alternatives, Prospects, Verdict
from sagellm_scheduler.separation.threshold import Threshold
from support.scheduling import EPOCH, Driver, submit


def times(scale: float = 1.0) -> tuple[tuple[float, int, int, int, int, int], ...]:
    """A self-benchmark of an engine of 5 ms a step, 0.2 ms a prompt token, 0.4 ms a decoding sequence."""
    steps = [(prefill, decode) for prefill in (0, 16, 256, 1024) for decode in (1, 8, 32)]
    return tuple(
        (scale * (0.005 + 0.0002 * prefill + 0.0004 * decode), prefill + decode, prefill, decode, 20 * decode, 0)
        for prefill, decode in steps
    )


def pair_of(policy: str = "threshold", **fields: Any) -> Driver:
    """One engine that prefills and one that decodes."""
    made = Driver.leading(separation=SEPARATION_POLICIES.make(policy), admission_slack=None, backlog_s=0.2)
    for engine_id, role in (("p", "prefill"), ("d", "decode")):
        made.engine(engine_id, role=role, handoff="x", kv_bytes_per_token=1000, benchmark=times(), kind="k", **fields)
    return made


def test_a_long_prompt_is_prefilled_elsewhere() -> None:
    """The assignment names both engines, each with its own number; the record says who does what."""
    driver = pair_of()
    driver.submit("long", prompt_tokens=1000)
    driver.submit("short", prompt_tokens=10)
    long, short = driver.assignments
    assert long.prefill is not None
    assert (long.engine_id, long.prefill.engine_id, long.prefill.number, long.number) == ("d", "p", 1, 1)
    assert (short.engine_id, short.prefill, short.number) == ("d", None, 2)
    decision = driver.records[0].record.decisions[0]
    assert (decision.chosen, decision.prefill) == ("d", "p")
    assert decision.predicted_transfer_ms is not None
    assert decision.reason.startswith("threshold: prefill on p; 1000 prompt tokens")


@pytest.mark.acceptance(90)
@pytest.mark.parametrize(
    ("prompt", "answer", "is_apart"),
    [(800, 1000, True), (799, 1000, False), (400, 100, True), (399, 100, False), (10, 10, False)],
)
def test_the_static_rule_goes_by_lengths(prompt: int, answer: int, is_apart: bool) -> None:
    """800 prompt tokens, or four times the answer."""
    prospects = Prospects(0.1, 0.01, 0.0, 1.0)
    asked = Alternatives(prospects, prospects, float(answer), 0)
    assert Threshold().separate(submit(prompt_tokens=prompt), asked).is_apart == is_apart


@pytest.mark.parametrize(
    ("whole", "apart", "num_seen", "is_apart"),
    [
        (Prospects(0.1, 0.01, 0.5, 1.0), Prospects(0.1, 0.01, 0.1, 1.0), 100, True),
        (Prospects(0.1, 0.01, 0.1, 1.0), Prospects(0.1, 0.01, 0.5, 0.5), 100, False),
        (Prospects(0.1, 0.01, 0.0, 2.0), Prospects(0.1, 0.01, 0.0, 1.0), 100, True),
        (Prospects(0.1, 0.01, 0.0, 1.0), Prospects(0.1, 0.01, 0.0, 0.995), 100, False),
        (Prospects(0.1, 0.01, 0.0, 2.0), Prospects(0.1, 0.01, 0.0, 1.0), 0, False),
    ],
    ids=["fewer misses", "more misses", "less time", "hardly less time", "nothing seen yet"],
)
def test_the_adaptive_policy_goes_by_harm(whole: Prospects, apart: Prospects, num_seen: int, is_apart: bool) -> None:
    """Missed SLOs first, then time; by lengths alone until hand-offs have been seen, if there is something in it."""
    verdict = Adaptive().separate(submit(prompt_tokens=50), Alternatives(whole, apart, 100.0, num_seen))
    assert verdict.is_apart == is_apart
    assert "to the first token" in verdict.reason


def test_adaptive_spares_those_that_decode() -> None:
    """Beside many decoding sequences with an SLO between tokens a long prompt goes elsewhere, a short one does not."""
    driver = Driver.leading(separation=Adaptive(enough_seen=0), router="predictive", admission_slack=None)
    for engine_id, running in (("busy", 3), ("idle", 0)):
        driver.engine(engine_id, handoff="x", kv_bytes_per_token=1000, benchmark=times(), kind="k", reports=False)
        driver.report(engine_id, running=running, used_pages=10 * running)
    driver.submit("r", prompt_tokens=2000, max_tokens=200, slo={"itl_ms": 7.0})
    (assignment,) = driver.assignments
    assert assignment.engine_id == "idle"
    assert assignment.prefill is None, "an idle engine does it all"


@pytest.mark.parametrize(
    "fields",
    [{"handoff": ""}, {"handoff": "another"}],
    ids=["no transfer", "another model or layout"],
)
def test_engines_that_cannot_hand_over_to_each_other_stay_alone(fields: dict[str, str]) -> None:
    """Only equal classes are paired; the decode engine does it whole then."""
    driver = Driver.leading(separation=Threshold(), admission_slack=None)
    driver.engine("p", role="prefill", benchmark=times(), handoff="x")
    driver.engine("d", role="decode", benchmark=times(), **fields)
    driver.submit("r", prompt_tokens=1000)
    assert [(a.engine_id, a.prefill) for a in driver.assignments] == [("d", None)]


def test_several_choices_stay_together() -> None:
    """They share their prompt's pages."""
    driver = pair_of()
    driver.submit("r", prompt_tokens=1000, num_choices=2)
    assert driver.assignments[0].prefill is None


def test_off_means_never() -> None:
    """Live, without losing a request."""
    driver = pair_of()
    driver.feed(events.PolicyChanged(Fifo(), LoadBalanced(), SEPARATION_POLICIES.make("off")))
    driver.submit("r", prompt_tokens=1000)
    assert driver.assignments[0].prefill is None


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    """As for queues and routers."""
    with pytest.raises(InvalidArgument, match="known are adaptive, off, threshold"):
        SEPARATION_POLICIES.make("nonsense")


def test_a_policy_of_ones_own() -> None:
    """Any object that decides."""

    class Always:
        name, predicts = "always", True

        def separate(self, request: object, alternatives: Alternatives) -> Verdict:
            return Verdict(True, "always")

    driver = pair_of()
    driver.feed(events.PolicyChanged(Fifo(), LoadBalanced(), Always()))
    driver.submit("r", prompt_tokens=20)
    assert driver.assignments[0].prefill is not None


def test_both_engines_are_reserved_until_their_reports_tell() -> None:
    """The prefill engine's share ends when it has seen the assignment, the decode engine's with the request."""
    driver = pair_of()
    driver.submit("r", prompt_tokens=1000)
    fleet = driver.core.fleet
    there, here = fleet.get("p"), fleet.get("d")
    assert there is not None
    assert here is not None
    assert (there.reservations.seqs, there.backlog()[0]) == (1, 1000)
    assert (here.reservations.seqs, here.backlog()[0]) == (1, 0)
    driver.report("p", running=1, last_assignment=1)
    driver.report("d", waiting=1, last_assignment=1)
    assert (there.reservations.seqs, there.reservations.tokens) == (0, 0)
    assert here.reservations.seqs == 1
    driver.end("r")
    assert here.reservations.seqs == 0


def test_prompts_for_another_engine_are_no_answers_here() -> None:
    """They take a slot of the prefill engine, and nobody there waits for their next token, so that no step reads their
    context for one: neither before it has seen the assignment, nor by its reports, nor when these are old."""
    driver = pair_of()
    driver.submit("r", prompt_tokens=1000)
    fleet = driver.core.fleet
    there, here = fleet.get("p"), fleet.get("d")
    assert there is not None
    assert here is not None

    def slots_answers_and_context() -> list[tuple[float, float, float]]:
        columns, loads = fleet.columns, fleet.columns.loads
        slots = [engine.slot for engine in (there, here)]
        return [(columns.seqs[slot], loads.sequences[slot], loads.context[slot]) for slot in slots]

    assert slots_answers_and_context() == [(1, 0, 0), (1, 1, 0)]
    tokens = 100 * driver.engines["p"].page_size
    driver.report("p", running=3, waiting=1, used_pages=100, leaving=3, leaving_tokens=tokens - 64, last_assignment=1)
    driver.report("d", waiting=1, last_assignment=1)
    assert slots_answers_and_context() == [(4, 1, 64), (1, 1, 0)]
    driver.report("p", last_assignment=1)
    driver.submit("later", prompt_tokens=1000)
    driver.core.fleet.age(driver.now + 1.5)
    assert there.is_stale
    assert slots_answers_and_context()[0] == (1, 0, 0)
    assert there.decoding() == 0


def test_a_prompt_is_counted_where_it_is_computed() -> None:
    """Not where its answer will come from, neither before that engine has seen the assignment nor by its reports."""
    driver = pair_of()
    driver.submit("r", prompt_tokens=1000)
    fleet = driver.core.fleet
    engines = [fleet.get("p"), fleet.get("d")]

    def backlogs() -> list[tuple[int, int]]:
        return [engine.backlog() for engine in engines if engine is not None]

    def columns() -> list[float]:
        return [fleet.columns.loads.prompts[engine.slot] for engine in engines if engine is not None]

    assert backlogs() == [(1000, 1), (0, 0)]
    assert columns() == [1, 0]
    driver.report("d", waiting=1, expected=1, last_assignment=1)
    assert backlogs()[1] == (0, 0)
    driver.report("d", waiting=3, expected=1, last_assignment=1)
    assert backlogs()[1] == (0, 2)


def test_a_request_that_is_withdrawn_frees_both() -> None:
    """Before either engine has seen it."""
    driver = pair_of()
    driver.submit("r", prompt_tokens=1000)
    driver.end("r", "cancelled")
    assert driver.reserved() == 0


def test_an_earlier_leaders_assignment_is_counted_on_both() -> None:
    """A scheduler that takes over reserves what gateways tell of."""
    driver = pair_of()
    driver.submit("r", prompt_tokens=1000)
    (assignment,) = driver.assignments
    driver.feed(events.LeadershipGained((EPOCH[0], EPOCH[1] + 1)))
    assert driver.reserved() == 0
    opened = (OpenRequest(submit=submit("r", prompt_tokens=1000), assignment=assignment),)
    driver.feed(events.OpenLearnt("g1", opened, driver.now))
    assert driver.reserved() == 2
    for engine_id in ("p", "d"):
        driver.report(engine_id, last_assignment=1)
    assert driver.reserved() == 1, "the decode engine's"
    driver.feed(events.LeadershipGained((EPOCH[0], EPOCH[1] + 2)))
    driver.feed(events.OpenLearnt("g1", opened, driver.now))
    assert driver.reserved() == 1, "the prefill engine has seen it long ago"


def test_prefill_waits_do_not_pile_up_on_one_engine() -> None:
    """Beyond half a second of prompts ahead the queue holds them back, though places to decode are free."""
    driver = pair_of()
    for number in range(6):
        driver.submit(f"r{number}", prompt_tokens=1500)
    there = driver.core.fleet.get("p")
    assert there is not None
    assert 1500 <= there.backlog()[0] <= 3 * 1500, "0.3 s each"


CROWD = [("d", None), ("d", None), ("d", "p"), ("d", "p")]
"""Where eight prompts of 0.14 s go: an engine is given a fifth of a second of them ahead of time."""


@pytest.mark.parametrize(
    ("policy", "placed"),
    [("threshold", CROWD), ("adaptive", CROWD), ("off", [("d", None), ("d", None), ("p", None), ("p", None)])],
)
def test_an_engine_for_prompts_gets_no_answers_while_another_has_a_slot(
    policy: str, placed: list[tuple[str, str | None]]
) -> None:
    """Short prompts that would be served whole go apart where their engine has enough to prefill, and wait where both
    have. An answer beside the prompts would slow all of them down. Where separation is off, they share the work."""
    driver = pair_of(policy, max_batch_tokens=512, num_pages=4096)
    for number in range(8):
        driver.submit(f"r{number}", prompt_tokens=700, max_tokens=500)
    decisions = [published.record.decisions[0] for published in driver.records]
    assert [(decision.chosen, decision.prefill) for decision in decisions] == placed
    told = "no engine that answers has room for the prompt"
    assert [told in decision.reason for decision in decisions] == [bool(prefill) for _, prefill in placed]


def test_what_a_hand_off_took_is_learnt_and_told() -> None:
    """Predictions of transfers follow what was measured; a slow one is the cause of a missed SLO."""
    driver = pair_of()
    fleet = driver.core.fleet
    before = fleet.transfers.predict_s(1, 1e6)
    for number in range(64):
        driver.submit(f"r{number}", prompt_tokens=1000, slo={"ttft_ms": 500.0})
        driver.report("p", last_assignment=number + 1)
        driver.now += 0.9
        end = {"ttft_ms": 900.0, "transfer_ms": 600.0, "itl_mean_ms": 6.0, "completion_tokens": 9}
        driver.end(f"r{number}", **end)
        driver.report("p", last_assignment=number + 1)
        driver.report("d", last_assignment=number + 1)
    assert fleet.transfers.predict_s(1, 1e6) == pytest.approx(0.6, rel=0.2)
    assert before < 0.01
    record = [action.record for action in driver.done if isinstance(action, PublishRecord)][-1]
    assert (record.missed, record.cause, record.transfer_ms) == ("ttft", "transfer", 600.0)
