"""A deployment in virtual time, with and without faults: nothing is lost, nothing is told twice, everything repeats."""

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from sagellm_common.contracts.engines import EngineRole
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
    """A world in which messages are late, lost, doubled and reordered, and engines die; some come back. In some the
    scheduler that leads dies too, once or twice."""
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
        engines=tuple(replace(ENGINE, role=role) for role in _roles(chance, num_engines)),
        pd=chance.choice(["off", "threshold", "adaptive"]),
        queue=chance.choice(["fifo", "slo_aware", "fair", "adaptive", "hybrid"]),
        router=chance.choice(["predictive", "load_balanced", "random"]),
        num_gateways=chance.randrange(1, 3),
        network=network,
        deaths=deaths,
        seed=seed,
        jump=chance.random() < 0.8,
        scheduler_deaths=tuple(
            chance.uniform(4.0 * number, 4.0 * number + 1.9) for number in range(chance.choice([0, 0, 1, 2]))
        ),
    )
    asked = requests(chance, 12, 6.0)
    return World(scenario, asked), asked


def _roles(chance: random.Random, number: int) -> list[EngineRole]:
    """All alike, or at least one that prefills and one that decodes."""
    if chance.random() < 0.5:
        return ["hybrid"] * number
    rest: list[EngineRole] = [chance.choice(["hybrid", "prefill", "decode"]) for _ in range(number - 2)]
    return ["prefill", "decode", *rest]


def are_single(pairs: Iterable[tuple[list[object], str]]) -> bool:
    """Whether each key has only one engine."""
    engines: dict[tuple[object, ...], set[str]] = {}
    for key, engine in pairs:
        engines.setdefault(tuple(key), set()).add(engine)
    return all(len(found) == 1 for found in engines.values())


def check(world: World, asked: Trace, result: Result) -> None:
    """What must hold at the end, whatever went wrong; that tokens are contiguous, each sink has checked."""
    ids = [item.asked.request_id for item in result.ended]
    assert sorted(ids) == sorted(item.request_id for item in asked.requests), "each request ends once"
    for item in result.ended:
        if item.phase == "finished":
            assert item.tokens == item.asked.output_tokens
    assert are_single((key[:3], engine) for *key, engine in world.assigned), "one assignment per epoch of each leader"
    assert are_single((key, engine) for *key, engine in world.dispatched), "one engine per epoch"
    world.settle()
    for engine in world.engines.values():
        if engine.alive:
            pages = engine.batch.pages
            assert not engine.batch.running
            assert engine.handoffs.num_open == 0, "leases are closed, and no read is waited for"
            assert (pages.reserved, engine.batch.num_reserved) == (0, 0)
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


def test_prompts_are_handed_over() -> None:
    """Engines with roles: long prompts are prefilled on one side only, and the decoding side sends all tokens."""
    chance = random.Random(7)
    asked = requests(chance, 60, 15.0)
    engines = tuple(replace(ENGINE, role=role) for role in ("prefill", "decode", "decode"))
    scenario = Scenario(engines=engines, pd="threshold", router="load_balanced")
    world = World(scenario, asked)
    result = world.run()
    check(world, asked, result)
    assert all(item.phase == "finished" and item.epochs == 1 for item in result.ended)
    apart = [record for record in result.records if record.decisions and record.decisions[-1].prefill]
    assert len(apart) > 20
    assert all(record.transfer_ms is not None for record in apart if (record.completion_tokens or 0) > 0)
    prefilled = {name: engine.tokens_prefilled for name, engine in world.engines.items()}
    long = sum(record.prompt_tokens for record in apart)
    assert prefilled["e0"] >= long, "what was handed over was prefilled there"
    assert sum(prefilled.values()) <= sum(item.prompt_tokens for item in asked.requests) + 16 * len(asked.requests)


def test_a_hand_over_takes_as_long_as_its_bytes() -> None:
    """A link a thousand times as slow is seen in the time to the first token, and in what is told of it."""
    asked = requests(random.Random(2), 10, 1.0)
    engines = tuple(replace(ENGINE, role=role, kv_bytes_per_token=100_000) for role in ("prefill", "decode"))
    slow = tuple(replace(spec, link_bytes_per_s=1e8) for spec in engines)
    fast, late = (
        simulate(Scenario(engines=specs, pd="threshold", router="load_balanced"), asked) for specs in (engines, slow)
    )
    for quick, slow_one in zip(_transfers(fast), _transfers(late), strict=True):
        tokens, quick_ms, slow_ms = quick[0], quick[1], slow_one[1]
        assert quick_ms < 10.0
        assert slow_ms >= (tokens % ENGINE.max_batch_tokens) * 100_000 / 1e8 * 1e3, "the last chunk at least"


def test_of_a_prompt_whose_beginning_is_known_only_the_rest_is_read() -> None:
    """The second of two prompts that share all but their last block costs the transfer of that block."""
    spec = replace(ENGINE, kv_bytes_per_token=100_000, link_bytes_per_s=1e9, num_pages=2000, max_batch_tokens=4096)
    engines = tuple(replace(spec, role=role) for role in ("prefill", "decode"))
    prompts = [(0.0, (1, 2, 3, 4, 5, 6)), (60.0, (1, 2, 3, 4, 5, 7)), (120.0, ())]
    asked = [
        TraceRequest(request_id=f"r{at:g}", at=at, prompt_tokens=3072 if blocks else 10, output_tokens=8, blocks=blocks)
        for at, blocks in prompts
    ]
    result = simulate(Scenario(engines=engines, pd="threshold", router="load_balanced"), Trace("turns", asked))
    second_ms, first_ms = sorted(ms for _, ms in _transfers(result))
    assert first_ms == pytest.approx(3072 * 100_000 / 1e9 * 1e3, rel=0.05)
    assert second_ms == pytest.approx(512 * 100_000 / 1e9 * 1e3, rel=0.05)


def _transfers(result: Result) -> list[tuple[int, float]]:
    """Prompt tokens and time of each hand-over."""
    found = [(record.prompt_tokens, record.transfer_ms) for record in result.records if record.outcome == "finished"]
    return sorted((tokens, ms) for tokens, ms in found if ms is not None)


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
