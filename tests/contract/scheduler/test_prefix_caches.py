"""A scheduler that routes by prefix caches: it follows the engines' events, and repairs what it has missed."""

from collections.abc import AsyncIterator

import pytest

from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.kv import KvEvents, SnapshotReply, SnapshotRequest
from sagellm_common.settings import BusSettings
from support.processes import Services
from support.scheduler_peers import Surroundings
from support.wait import eventually_async


@pytest.fixture
async def around(services: Services, bus: Bus, bus_settings: BusSettings) -> AsyncIterator[Surroundings]:
    """A scheduler that routes by caches, and two engines."""
    process = services.start("scheduler", bus_settings, scheduler_id="s1", router="cache_aware")
    await process.up(bus)
    async with Surroundings.on(bus) as surroundings:
        for name in ("e1", "e2"):
            surroundings.engine(name, max_num_seqs=64, num_pages=10_000, max_model_len=100_000)
        await surroundings.ready("s1", engines=2)
        yield surroundings


async def tell(bus: Bus, number: int, blocks: list[int]) -> None:
    await bus.publish(bus.settings.subjects.kv("e2"), KvEvents("e2", "i1", number, blocks))
    await bus.flush()


async def cached(around: Surroundings, name: str, blocks: tuple[int, ...]) -> int:
    """How much of a prompt the scheduler believes in the cache of the engine that it chose; it chose e2 if anything."""
    await around.gateway.submit("s1", name, prompt_tokens=2000, block_hashes=blocks)
    await around.gateway.assignment(name)
    decision = (await around.gateway.explain(name)).decisions[0]
    chosen = next(candidate for candidate in decision.candidates if candidate.engine_id == decision.chosen)
    assert decision.chosen == "e2" or chosen.cached_tokens == 0
    return chosen.cached_tokens


async def test_a_prompt_goes_where_its_blocks_are(bus: Bus, around: Surroundings) -> None:
    """After an event of e2, prompts that begin with its blocks go there, and the record says how much it has."""
    await tell(bus, 1, [11, 12, 13])

    async def known() -> bool:
        return await cached(around, f"r{len(around.gateway.assignments)}", (11, 12, 13, 14)) >= 3 * 256

    await eventually_async(known)


async def test_a_gap_is_repaired_by_a_snapshot(bus: Bus, around: Surroundings) -> None:
    """An event number 5 after nothing makes the scheduler ask; what the engine answers is what it goes by."""

    async def answer(request: SnapshotRequest, received: Received) -> SnapshotReply:
        return SnapshotReply(engine_id="e2", incarnation="i1", number=5, blocks=[21, 22])

    await bus.serve(bus.settings.subjects.engine_snapshot("e2"), SnapshotRequest, answer)
    await bus.flush()
    await tell(bus, 5, [22])

    async def known() -> bool:
        return await cached(around, f"r{len(around.gateway.assignments)}", (21, 22)) == 512

    await eventually_async(known)
