"""How many engines a load needs: held against the simulator, and where the answer is plain."""

import math

import numpy as np
import pytest

from sagellm_common.contracts.slo import Slo
from sagellm_scheduler.perf_model.capacity import (
    Limits,
    Mix,
    answers_per_s,
    first_token_s,
    prefills_per_s,
    requests_per_s,
    whole_per_s,
)
from sagellm_scheduler.planner.sizing import Load, Offer, size
from sagellm_simulation.bound import limits_of, mix_of
from sagellm_simulation.report import summarise
from sagellm_simulation.specs import H100_8B, H200_8B, L4_8B, EngineSpec
from sagellm_simulation.trace import conversations
from sagellm_simulation.world import Scenario, simulate

CHATS = Mix(new=1000.0, output=200.0, context=1100.0, products=600_000.0)


def offer(spec: EngineSpec, **more: object) -> Offer:
    """What a simulated kind of engine offers."""
    return Offer(spec.kind, limits_of(spec), spec.price_per_hour, **more)  # type: ignore[arg-type] # fields of Offer


@pytest.mark.parametrize("spec", [H200_8B, H100_8B, L4_8B])
def test_an_engine_bears_what_the_simulator_says(spec: EngineSpec) -> None:
    """At two thirds of the computed rate nearly all requests keep the time between tokens, at one and a half times that
    rate few do."""
    itl_ms = 100.0 if spec is L4_8B else 20.0
    trace = conversations(1500, seed=2)
    rate = whole_per_s(limits_of(spec), mix_of(trace), itl_ms / 1e3)
    met = {}
    for share in (0.67, 1.5):
        result = simulate(Scenario(engines=(spec,)), trace.at_rate(share * rate))
        met[share] = summarise(result, Slo(itl_ms=itl_ms)).attainment
    assert met[0.67] > 0.85
    assert met[1.5] < 0.3


def test_roles_bear_at_least_what_engines_that_do_both_bear_and_never_more_than_the_bound() -> None:
    """For every kind and pace: whole ≤ the best mixture of prefilling and decoding."""
    for spec in (H200_8B, H100_8B, L4_8B):
        for itl_s in (0.05, 0.1, 1.0):
            limits = limits_of(spec)
            bound = requests_per_s([limits], CHATS, itl_s)
            assert whole_per_s(limits, CHATS, itl_s) <= bound * 1.001
            assert bound <= min(prefills_per_s(limits, CHATS), answers_per_s(limits, CHATS, itl_s)) * 1.001


def test_prompts_hide_behind_answers() -> None:
    """Below the knee a step takes as long with 100 rows of prompts as without: they are prefilled for nothing."""
    limits = Limits(np.array([0.05, 0.0, 0.0, 0.0, 0.0, 1e-3]), 160.0, 8192, 60, 1e9)
    mix = Mix(new=100.0, output=60.0, context=1.0, products=0.0)
    assert answers_per_s(limits, mix, 0.1) == pytest.approx(20.0, rel=1e-4), "60 sequences, 20 steps a second"
    assert whole_per_s(limits, mix, 0.1) == pytest.approx(20.0, rel=1e-4), "beside them 100 rows of prompts a step"
    assert requests_per_s([limits] * 2, mix, 0.1) == pytest.approx(40.0, rel=1e-4)


def test_the_first_token_of_a_long_prompt_takes_all_its_steps() -> None:
    """Five steps of 512 tokens and what goes beyond the knee of 160 in each."""
    limits = limits_of(L4_8B)
    expected = 5 * L4_8B.base + 5 * (512 - 160) * L4_8B.over_knee + L4_8B.chunk_x_context * 2560 * (2560 + 512) / 2
    assert first_token_s(limits, 2560.0) == pytest.approx(expected)


def test_engines_grow_with_the_load() -> None:
    """One more as soon as the last is full, and no fewer than asked for."""
    one = whole_per_s(limits_of(H200_8B), CHATS, 0.02)
    counts = []
    for rate in (0.0, 0.5 * one, 0.99 * one, 1.01 * one, 2.5 * one, 40.2 * one):
        sizing = size([offer(H200_8B)], Load(rate, CHATS, itl_s=0.02))
        assert sizing is not None
        assert sizing.per_s >= rate
        counts.append(sizing.count)
    assert counts == [1, 1, 1, 2, 3, 41]
    least = size([offer(H200_8B)], Load(0.0, CHATS), least=3)
    assert least is not None
    assert least.count == 3


def test_the_cheapest_kind_that_meets_the_slos_is_taken() -> None:
    """An L4 is cheap and too slow for 20 ms; at 100 ms price decides."""
    offers = [offer(H200_8B), offer(L4_8B)]
    fast, slow = (size(offers, Load(5.0, CHATS, itl_s=itl_s)) for itl_s in (0.02, 0.1))
    assert fast is not None
    assert slow is not None
    assert [group.offer.kind for group in fast.groups] == ["h200-8b"]
    prices = [size([one], Load(5.0, CHATS, itl_s=0.1)) for one in offers]
    assert slow.price_per_hour == min(sizing.price_per_hour for sizing in prices if sizing)


def test_a_layout_of_two_devices_is_taken_where_one_is_too_slow() -> None:
    """TP2 costs twice as much and takes 6 ms a step less: only the tight SLO is worth it."""
    spec = H100_8B
    halved = Limits(limits_of(spec).coefficients * np.array([0.5, 1, 0.6, 0.5, 0.5, 0.5]), 240.0, 8192, 256, 6e5)
    offers = [offer(spec), Offer(spec.kind, halved, 2 * spec.price_per_hour, layout="TP2")]
    tight, loose = (size(offers, Load(2.0, CHATS, itl_s=itl_s)) for itl_s in (0.006, 0.1))
    assert tight is not None
    assert loose is not None
    assert [group.offer.layout for group in tight.groups] == ["TP2"]
    assert [group.offer.layout for group in loose.groups] == [""]


def test_roles_are_given_where_they_save_money() -> None:
    """Prompts on one kind and answers on another, cheaper than engines of either kind that do both; never without
    hand-overs, and never where the operator does not want them."""
    reader = Limits(np.array([5e-3, 1e-5, 1e-3, 0.0, 0.0, 0.0]), 1e9, 8192, 64, 1e6)
    writer = Limits(np.array([5e-3, 1e-3, 1e-5, 0.0, 0.0, 0.0]), 1e9, 8192, 64, 1e6)
    load = Load(10.0, CHATS, itl_s=0.02)
    able = [Offer("reader", reader, can_hand_over=True), Offer("writer", writer, can_hand_over=True)]
    split = size(able, load)
    assert split is not None
    assert {group.role: group.offer.kind for group in split.groups} == {"prefill": "reader", "decode": "writer"}
    whole = size(able, load, apart=False)
    unable = size([Offer("reader", reader), Offer("writer", writer)], load)
    assert whole is not None
    assert unable is not None
    assert [(group.role, group.count) for group in unable.groups] == [("hybrid", whole.count)]
    assert split.price_per_hour < whole.price_per_hour


def test_what_no_engine_can_do_is_done_as_well_as_can_be() -> None:
    """A first token in a millisecond: the quickest engines, enough of them to keep up, and a reason that says so."""
    sizing = size([offer(H200_8B), offer(L4_8B)], Load(30.0, CHATS, ttft_s=0.001, itl_s=0.02))
    assert sizing is not None
    assert [group.offer.kind for group in sizing.groups] == ["h200-8b"]
    assert sizing.per_s >= 30.0
    assert "no engine meets the SLOs" in sizing.reason


def test_without_offers_there_is_no_fleet() -> None:
    """Nothing is known of any engine: nothing is advised."""
    assert size([], Load(1.0, CHATS)) is None


def test_without_slos_engines_are_filled() -> None:
    """No limits on time: as many sequences as fit."""
    sizing = size([offer(H200_8B)], Load(1.0, CHATS, math.inf, math.inf))
    assert sizing is not None
    assert sizing.count == 1
