"""A scheduler that routes by prefix caches: it follows the engines' events, and repairs what it has missed."""

from collections.abc import AsyncIterator

import pytest

from sagellm_common.blocks import BLOCK_TOKENS
from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.kv import KvEvents, SnapshotReply, SnapshotRequest
from sagellm_common.settings import BusSettings
from support.processes import Services
from support.scheduler_peers import Surroundings
from support.wait import eventually_async


@pytest.fixture
async def around(services: Services, bus: Bus, bus_settings: BusSettings) -> AsyncIterator[Surroundings]:
    """A scheduler that routes by caches, and two engines. They never prefill, so that no backlog is too long."""
    process = services.start("scheduler", bus_settings, scheduler_id="s1", router="cache_aware", backlog_s=1e6)
    await process.up(bus)
    async with Surroundings.on(bus) as surroundings:
        for name in ("e1", "e2"):
            surroundings.engine(name, max_num_seqs=64, num_pages=10_000, max_model_len=100_000)
        await surroundings.ready("s1", engines=2)
        yield surroundings


async def tell(bus: Bus, number: int, blocks: list[int]) -> None:
    await bus.publish(bus.settings.subjects.kv("e2"), KvEvents("e2", "i1", number, blocks))
    await bus.flush()


async def placed(around: Surroundings, name: str, *blocks: int) -> tuple[str, int]:
    """Submit a prompt with these blocks; return which engine was chosen, and how much of it that has, in tokens."""
    await around.gateway.submit("s1", name, prompt_tokens=2000, block_hashes=blocks)
    await around.gateway.assignment(name)
    decision = (await around.gateway.explain(name)).decisions[0]
    chosen = next(candidate for candidate in decision.candidates if candidate.engine_id == decision.chosen)
    return chosen.engine_id, chosen.cached_tokens


async def known(around: Surroundings, blocks: range) -> None:
    """Wait until the scheduler knows these blocks. Each is asked for once: a prompt sent makes its blocks expected."""
    left = iter(blocks)

    async def is_known() -> bool:
        block = next(left)
        return (await placed(around, f"probe-{block}", block)) == ("e2", BLOCK_TOKENS)

    await eventually_async(is_known)


async def test_a_prompt_goes_where_its_blocks_are(bus: Bus, around: Surroundings) -> None:
    """After an event of e2, prompts that begin with its blocks go there, and the record says how much it has."""
    await tell(bus, 1, [11, 12, 13, *range(100, 1000)])
    await known(around, range(100, 1000))
    assert await placed(around, "mine", 11, 12, 13, 14) == ("e2", 3 * BLOCK_TOKENS)


async def test_a_gap_is_repaired_by_a_snapshot(bus: Bus, around: Surroundings) -> None:
    """An event number 5 after nothing makes the scheduler ask; what the engine answers is what it goes by."""

    async def answer(request: SnapshotRequest, received: Received) -> SnapshotReply:
        return SnapshotReply(engine_id="e2", incarnation="i1", number=5, blocks=[21, 22, *range(100, 1000)])

    await bus.serve(bus.settings.subjects.engine_snapshot("e2"), SnapshotRequest, answer)
    await bus.flush()
    await tell(bus, 5, [23])
    await known(around, range(100, 1000))
    assert await placed(around, "mine", 21, 22, 23) == ("e2", 2 * BLOCK_TOKENS)
