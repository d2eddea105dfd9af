"""The capacity bound: no simulated fleet exceeds it, and a loaded one comes near."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm_common.contracts.slo import Slo
from sagellm_scheduler.perf_model.capacity import answers_per_s, prefills_per_s, requests_per_s
from sagellm_simulation.bound import bound, limits_of, mix_of, new_by_recency, new_tokens
from sagellm_simulation.report import summarise
from sagellm_simulation.specs import H100_8B, H200_8B
from sagellm_simulation.trace import Trace, TraceRequest
from sagellm_simulation.world import Scenario, simulate


def equal_requests(count: int, prompt: int, output: int, blocks: tuple[int, ...] = ()) -> Trace:
    chance, at, requests = random.Random(1), 0.0, []
    for number in range(count):
        at += chance.expovariate(1.0)
        requests.append(
            TraceRequest(request_id=f"r{number}", at=at, prompt_tokens=prompt, output_tokens=output, blocks=blocks)
        )
    return Trace("equal", requests)


def test_a_prefix_counts_once() -> None:
    """With the same first two blocks in all prompts, only the first request has them to compute."""
    mix = mix_of(equal_requests(10, 2000, 100, blocks=(1, 2)))
    assert mix.new == pytest.approx(2000 - 0.9 * 1024)
    assert mix.context == 2050


def test_a_small_cache_keeps_what_is_needed_soonest() -> None:
    """Two blocks are kept of three that come in turns: of each later turn one has to be computed, not three as with
    what was used longest ago given up."""
    turns = [
        TraceRequest(request_id=f"r{n}", at=float(n), prompt_tokens=520, output_tokens=9, blocks=(n % 3,))
        for n in range(12)
    ]
    trace = Trace("turns", turns)
    assert sum(new == 520 for new in new_tokens(trace)) == 3
    assert sum(new == 520 for new in new_tokens(trace, 2 * 512)) == 3 + 3
    assert all(new == 520 for new in new_tokens(trace, 511))
    assert all(new == 520 for new in new_by_recency(trace, 2 * 512))
    assert sum(new == 520 for new in new_by_recency(trace, 3 * 512)) == 3


def test_a_cache_that_goes_by_recency_gives_up_the_ends_of_old_prompts_first() -> None:
    """Of three blocks and one more, three are kept: the first prompt's last one is given up, and nothing behind a
    block that is gone is found."""
    prompts = [(1, 2, 3), (4,), (1, 2, 3), (4,), (3,)]
    trace = Trace(
        "ends",
        [
            TraceRequest(request_id=f"r{n}", at=float(n), prompt_tokens=1600, output_tokens=1, blocks=blocks)
            for n, blocks in enumerate(prompts)
        ],
    )
    found = [(1600 - new) // 512 for new in new_by_recency(trace, 3 * 512)]
    assert found == [0, 0, 2, 0, 0]


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=1), min_size=1, max_size=7), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_no_choice_of_what_to_keep_saves_more(prompts: list[list[int]], held: int) -> None:
    """The perfect cache finds as much as the best of all ways to keep so many blocks."""
    requests = [
        TraceRequest(request_id=f"r{n}", at=float(n), prompt_tokens=600, output_tokens=1, blocks=tuple(blocks))
        for n, blocks in enumerate(prompts)
    ]
    found = sum(new < 600 for new in new_tokens(Trace("any", requests), held * 512))
    assert found == most_found([blocks[0] for blocks in prompts], frozenset(), held)


def most_found(blocks: list[int], kept: frozenset[int], held: int) -> int:
    """Hits of the best way, by trying all."""
    if not blocks:
        return 0
    known = kept | {blocks[0]}
    ways = [frozenset(way) for size in range(held + 1) for way in itertools.combinations(known, size)]
    return (blocks[0] in kept) + max(most_found(blocks[1:], way, held) for way in ways)


@pytest.mark.parametrize(("prompt", "output"), [(200, 100), (1000, 100), (4000, 50)])
def test_no_load_above_the_bound_is_borne(prompt: int, output: int) -> None:
    """Well below it all are in time, somewhat above it hardly any; both times matter."""
    trace, itl_s = equal_requests(3000, prompt, output), 0.02
    limit = bound([H200_8B], trace, itl_s)
    slo = Slo(ttft_ms=2000.0, itl_ms=1e3 * itl_s)
    shares = [
        summarise(simulate(Scenario(engines=(H200_8B,), slo=slo), trace.at_rate(part * limit)), slo).attainment
        for part in (0.35, 1.2)
    ]
    assert shares[0] > 0.95
    assert shares[1] < 0.6


def test_a_looser_slo_and_a_faster_engine_bear_more() -> None:
    """And where no step is short enough, nothing is borne."""
    mix = mix_of(equal_requests(10, 1000, 200))
    one, other = limits_of(H200_8B), limits_of(H100_8B)
    assert requests_per_s([one], mix, 0.006) < requests_per_s([one], mix, 0.02)
    assert requests_per_s([other], mix, 0.03) < requests_per_s([one], mix, 0.03)
    assert requests_per_s([one], mix, 0.001) == pytest.approx(0.0, abs=1e-5), "shorter than a step"


def test_time_is_split_between_prompts_and_answers() -> None:
    """One engine serves at least what both parts of its time allow, and no more than either alone; three engines thrice
    as many, and a mixed fleet more than its engines alone."""
    mix = mix_of(equal_requests(10, 1000, 200))
    one, other = limits_of(H200_8B), limits_of(H100_8B)
    prompts, answers = prefills_per_s(one, mix), answers_per_s(one, mix, 0.02)
    alone = requests_per_s([one], mix, 0.02)
    assert 1.0 / (1.0 / prompts + 1.0 / answers) < alone < min(prompts, answers)
    assert requests_per_s([one] * 3, mix, 0.02) == pytest.approx(3 * alone, rel=1e-4)
    mixed = requests_per_s([one, other], mix, 0.02)
    assert mixed >= requests_per_s([one], mix, 0.02) + requests_per_s([other], mix, 0.02) - 1e-3
