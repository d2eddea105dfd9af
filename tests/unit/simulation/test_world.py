"""A deployment in virtual time, with and without faults: nothing is lost, nothing is told twice, everything repeats."""

import random
from dataclasses import replace

import pytest

from sagellm_common.contracts.slo import Slo
from sagellm_simulation.network import NetworkFaults
from sagellm_simulation.specs import MOCK, EngineSpec
from sagellm_simulation.trace import Trace, TraceRequest
from sagellm_simulation.world import Result, Scenario, World, simulate

NUM_SEEDS = 1000
ENGINE = replace(MOCK, num_pages=300, max_batch_tokens=256, max_num_seqs=8)


def requests(chance: random.Random, count: int, per_s: float) -> Trace:
    """Some requests at random times."""
    at, made = 0.0, []
    for number in range(count):
        at += chance.expovariate(per_s)
        made.append(
            TraceRequest(
                request_id=f"r{number}",
                at=at,
                prompt_tokens=chance.randrange(1, 700),
                output_tokens=chance.randrange(1, 40),
                slo=Slo(ttft_ms=chance.choice([None, 500.0, 5000.0])),
            )
        )
    return Trace("random", made, block=64)


def faulty(seed: int) -> tuple[World, Trace]:
    """A world in which messages are late, lost, doubled and reordered, and engines die; some come back."""
    chance = random.Random(seed)
    network = NetworkFaults(
        delay_s=chance.choice([0.0005, 0.02]),
        jitter_s=chance.choice([0.0, 0.05]),
        loss=chance.choice([0.0, 0.02, 0.1]),
        duplication=chance.choice([0.0, 0.1]),
        reordering=chance.choice([0.0, 0.1]),
    )
    num_engines = chance.randrange(2, 5)
    deaths = tuple(
        (number, chance.uniform(0.0, 4.0), chance.choice([None, 0.5, 6.0]))
        for number in range(chance.randrange(num_engines))  # one stays
    )
    scenario = Scenario(
        engines=(ENGINE,) * num_engines,
        queue=chance.choice(["fifo", "slo_aware", "fair", "adaptive", "hybrid"]),
        router=chance.choice(["predictive", "load_balanced", "random"]),
        num_gateways=chance.randrange(1, 3),
        network=network,
        deaths=deaths,
        seed=seed,
        jump=chance.random() < 0.8,
    )
    asked = requests(chance, 12, 6.0)
    return World(scenario, asked), asked


def check(world: World, asked: Trace, result: Result) -> None:
    """What must hold at the end, whatever went wrong; that tokens are contiguous, each sink has checked."""
    ids = [item.asked.request_id for item in result.ended]
    assert sorted(ids) == sorted(item.request_id for item in asked.requests), "each request ends once"
    for item in result.ended:
        if item.phase == "finished":
            assert item.tokens == item.asked.output_tokens
    engines_of: dict[tuple[str, int], set[str]] = {}
    for request_id, epoch, engine_id in world.assigned:
        engines_of.setdefault((request_id, epoch), set()).add(engine_id)
    assert all(len(engines) == 1 for engines in engines_of.values()), "one assignment per epoch"
    world.settle()
    for engine in world.engines.values():
        if engine.alive:
            pages = engine.batch.pages
            assert not engine.batch.running
            assert pages.free + pages.cached == pages.total, "pages are conserved"


@pytest.mark.parametrize("block", range(20))
def test_faults_lose_nothing(block: int) -> None:
    """A thousand seeds of faults: every request ends once and gets every token once, and no page is lost."""
    for seed in range(block * NUM_SEEDS // 20, (block + 1) * NUM_SEEDS // 20):
        world, asked = faulty(seed)
        try:
            check(world, asked, world.run())
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_most_requests_survive_the_faults() -> None:
    """Over fifty seeds nine requests in ten are answered in full: what is lost is repaired, not given up."""
    results = [world.run() for world, _ in map(faulty, range(50))]
    finished = sum(item.phase == "finished" for result in results for item in result.ended)
    assert finished >= 0.9 * sum(len(result.ended) for result in results)


@pytest.mark.parametrize("seed", [1, 5, 17])
def test_a_seed_gives_the_same_run_bit_by_bit(seed: int) -> None:
    """Two runs of a seed agree in every time, engine and message count."""
    (one, _), (two, _) = faulty(seed), faulty(seed)
    first, second = one.run(), two.run()
    assert first.ended == second.ended
    assert (first.messages, first.busy_s, one.assigned) == (second.messages, second.busy_s, two.assigned)


def test_an_engine_that_dies_costs_a_moment_not_the_request() -> None:
    """Its requests go on elsewhere, with all their tokens, a few seconds late."""
    chance = random.Random(3)
    asked = requests(chance, 40, 20.0)
    result = simulate(Scenario(engines=(ENGINE,) * 3, deaths=((0, 1.0, None),)), asked)
    moved = [item for item in result.ended if item.epochs > 1]
    assert moved
    assert all(item.phase == "finished" for item in result.ended)
    assert all(item.e2e_s < 20.0 for item in moved)


def test_a_faster_engine_is_given_more() -> None:
    """The predictive router gives an engine that is three times as fast more than twice as much."""
    slow = EngineSpec(**{**{f: getattr(ENGINE, f) for f in ENGINE.__slots__}, "kind": "slow"})
    slow = replace(slow, base=ENGINE.base * 3, prefill=ENGINE.prefill * 3, decode=ENGINE.decode * 3)
    asked = requests(random.Random(1), 300, 8.0)
    result = simulate(Scenario(engines=(ENGINE, slow)), asked)
    counts = [sum(item.engine_id == name for item in result.ended) for name in ("e0", "e1")]
    assert counts[0] > 2 * counts[1]
