"""An engine tells schedulers which prefixes it holds, by blocks, and all of it to who asks."""

import asyncio
from collections.abc import Awaitable, Callable

from sagellm_common.blocks import BLOCK_TOKENS, block_hashes
from sagellm_common.bus import Received
from sagellm_common.contracts.kv import KvEvents, SnapshotReply, SnapshotRequest
from support.engine_peer import EnginePeer
from support.processes import ServiceProcess
from support.wait import eventually

StartEngine = Callable[..., Awaitable[tuple[ServiceProcess, EnginePeer]]]


async def listen(peer: EnginePeer) -> list[KvEvents]:
    """Return what the engine tells from now on."""
    told: list[KvEvents] = []

    def take(events: KvEvents, received: Received) -> None:
        told.append(events)

    await peer.bus.subscribe(peer.subjects.kv(peer.engine.engine_id), KvEvents, take)
    await peer.bus.flush()
    return told


async def snapshot(peer: EnginePeer) -> SnapshotReply:
    """Ask for all, as a scheduler does."""
    answer: asyncio.Queue[SnapshotReply] = asyncio.Queue()

    def take(reply: SnapshotReply, received: Received) -> None:
        answer.put_nowait(reply)

    inbox = peer.bus.new_inbox()
    await peer.bus.subscribe(inbox, SnapshotReply, take)
    subject = peer.subjects.engine_snapshot(peer.engine.engine_id)
    await peer.bus.publish(subject, SnapshotRequest(scheduler_id="s1"), reply=inbox)
    return await asyncio.wait_for(answer.get(), 30)


def prompt(seed: int, length: int) -> list[int]:
    return [(seed * 7919 + place * 31) % 1000 for place in range(length)]


async def test_blocks_are_told_with_the_hashes_that_gateways_compute(start_engine: StartEngine) -> None:
    """A prompt of two blocks and a bit makes two blocks known, in numbered messages; a snapshot has the same blocks."""
    _, peer = await start_engine()
    told = await listen(peer)
    one, two = prompt(1, 2 * BLOCK_TOKENS + 2), prompt(2, BLOCK_TOKENS + 2)
    await peer.run(prompt_token_ids=one)
    await eventually(lambda: sum(len(events.stored) for events in told) == 2)
    await peer.run(prompt_token_ids=two)
    await eventually(lambda: sum(len(events.stored) for events in told) == 3)
    assert [block for events in told for block in events.stored] == [*block_hashes(one), *block_hashes(two)]
    assert [events.number for events in told] == list(range(1, len(told) + 1))
    assert {events.incarnation for events in told} == {peer.engine.incarnation}
    all_of_it = await snapshot(peer)
    assert sorted(all_of_it.blocks) == sorted([*block_hashes(one), *block_hashes(two)])
    assert (all_of_it.number, all_of_it.last) == (told[-1].number, True)
    assert (await peer.reported(lambda report: report.kv_number > 0)).kv_number == told[-1].number


async def test_what_is_evicted_is_told_too(start_engine: StartEngine) -> None:
    """An engine of 40 pages that is given one prompt after another tells of what it no longer holds."""
    _, peer = await start_engine(num_pages=40, max_model_len=640)
    told = await listen(peer)
    for seed in range(4):
        await peer.run(prompt_token_ids=prompt(seed, 520))
    await eventually(lambda: any(events.removed for events in told))
    await eventually(lambda: bool(told) and block_hashes(prompt(3, 520))[1] in told[-1].stored)
    known: set[int] = set()
    for events in told:
        known = (known | set(events.stored)) - set(events.removed)
    assert set((await snapshot(peer)).blocks) == known
    assert set(block_hashes(prompt(3, 520))) <= known
    assert not set(block_hashes(prompt(0, 520))) & known
