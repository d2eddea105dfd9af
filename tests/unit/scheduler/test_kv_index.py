"""The index of prefix caches: events in order, gaps, snapshots, what is expected; and routing by it."""

import random
from typing import Any

import numpy as np
import pytest

from sagellm_common.contracts.kv import KvEvents, SnapshotReply
from sagellm_common.contracts.slo import Slo
from sagellm_scheduler.core import events
from sagellm_scheduler.core.actions import AskEngine
from sagellm_scheduler.kv_index.index import EXPECT_S, KvIndex
from support.scheduling import Driver

BLOCK = 256
STEPS = tuple((0.005 + 0.0001 * p + 0.0004 * d, p + d, p, d, 20 * d, 0) for p in (0, 16, 256, 1024) for d in (1, 8, 32))
"""A self-benchmark: 0.1 ms a token of a prompt."""


def changed(number: int, stored: list[int], removed: list[int] | None = None, *, cleared: bool = False) -> KvEvents:
    return KvEvents("e1", "i1", number, stored, removed or [], cleared)


def overlap(index: KvIndex, blocks: list[int], *slots: int) -> list[int]:
    return [int(count) for count in index.overlap(blocks, np.array(slots, np.intp))]


def test_overlap_is_the_run_of_known_blocks_from_the_first() -> None:
    """A block behind a gap does not count; each engine has its own run."""
    index = KvIndex()
    for slot, blocks in ((0, [1, 2, 3]), (1, [1, 3]), (2, [2, 3]), (70, [1, 2])):
        index.begin(slot)
        index.apply(slot, changed(1, blocks))
    assert overlap(index, [1, 2, 3, 4], 0, 1, 2, 70, 5) == [3, 1, 0, 2, 0]
    assert overlap(index, [], 0, 1) == [0, 0]


def test_the_index_equals_a_naive_one_under_random_events() -> None:
    """Through 2,000 events of ten engines, some gone and back, overlaps are those of plain sets."""
    chance = random.Random(1)
    index, naive, numbers = KvIndex(), {slot: set[int]() for slot in range(10)}, dict.fromkeys(range(10), 0)
    for slot in naive:
        index.begin(slot)
    for _ in range(2000):
        slot = chance.randrange(10)
        if chance.random() < 0.01:
            index.begin(slot)
            naive[slot], numbers[slot] = set(), 0
            continue
        numbers[slot] += 1
        stored = [chance.randrange(40) for _ in range(chance.randrange(5))]
        removed = [block for block in naive[slot] if chance.random() < 0.1 and block not in stored]
        cleared = chance.random() < 0.01
        index.apply(slot, changed(numbers[slot], stored, removed, cleared=cleared))
        naive[slot] = ((set() if cleared else naive[slot]) | set(stored)) - set(removed)
        asked = [chance.randrange(40) for _ in range(6)]
        expected = [next((n for n, b in enumerate(asked) if b not in naive[s]), len(asked)) for s in range(10)]
        assert overlap(index, asked, *range(10)) == expected
    for slot in naive:
        index.forget(slot)
    assert len(index) == 0


def test_a_gap_asks_for_a_snapshot_and_goes_on_from_it() -> None:
    """Event 3 after event 1 is not taken; a snapshot as of 4 is, and then event 5; what is older than it is not."""
    index = KvIndex()
    index.begin(0)
    assert index.apply(0, changed(1, [1]))
    assert not index.apply(0, changed(3, [3]))
    assert not index.apply(0, changed(4, [4]))
    index.load(0, 4, [1, 2, 3])
    assert index.apply(0, changed(4, [9]))
    assert index.apply(0, changed(5, [4], [1]))
    assert overlap(index, [2, 3, 4], 0) == [3]
    assert overlap(index, [9], 0) == [0]
    assert overlap(index, [1], 0) == [0]


def test_what_is_expected_counts_until_it_does_not_come() -> None:
    """Blocks of a prompt on its way count at once; those that the engine has not stored after a while are forgotten."""
    index = KvIndex()
    index.begin(0)
    index.expect(0, [1, 2], now=100.0)
    assert overlap(index, [1, 2], 0) == [2]
    index.apply(0, changed(1, [1]))
    index.expire(100.0 + EXPECT_S)
    assert overlap(index, [1, 2], 0) == [1]


def fleet(**settings: object) -> Driver:
    driver = Driver.leading(block_tokens=BLOCK, **settings)  # type: ignore[arg-type] # as the tests name them
    for name in ("e1", "e2", "e3"):
        driver.engine(name, max_num_seqs=64, num_pages=100_000, max_model_len=100_000)
    return driver


@pytest.mark.parametrize("router", ["cache_aware", "predictive"])
def test_a_prompt_goes_where_its_prefix_is(router: str) -> None:
    """Of equally loaded engines the one that has the prompt's blocks is chosen, and the record says how much it has."""
    driver = fleet(router=router)
    driver.feed(events.CacheChanged(KvEvents("e2", "i1", 1, [7, 8, 9])))
    driver.submit("r1", prompt_tokens=4 * BLOCK, block_hashes=(7, 8, 9, 10))
    assert driver.assignments[0].engine_id == "e2"
    chosen = driver.records[-1].record.decisions[0].candidates[0]
    assert (chosen.engine_id, chosen.cached_tokens) == ("e2", 3 * BLOCK)


def test_requests_with_one_prefix_that_come_together_go_together() -> None:
    """The second of two prompts with the same blocks follows the first, before any engine has reported anything."""
    driver = fleet(router="cache_aware", backlog_s=60.0)
    driver.submit("r1", prompt_tokens=8 * BLOCK, block_hashes=tuple(range(8)))
    driver.submit("r2", prompt_tokens=8 * BLOCK, block_hashes=tuple(range(8)))
    first, second = driver.assignments
    assert first.engine_id == second.engine_id


@pytest.mark.parametrize("router", ["cache_aware", "predictive"])
def test_a_busy_engine_with_the_prefix_is_not_crowded_for_it(router: str) -> None:
    """A short known prefix does not pull a request to an engine that is nearly full while others are idle."""
    driver = fleet(router=router)
    driver.feed(events.CacheChanged(KvEvents("e2", "i1", 1, [7])))
    driver.report("e2", running=62, used_pages=60_000)
    driver.submit("r1", prompt_tokens=20 * BLOCK, block_hashes=tuple(range(7, 27)))
    assert driver.assignments[0].engine_id != "e2"


@pytest.mark.parametrize(("router", "is_waited_for"), [("cache_aware", True), ("predictive", True), ("random", False)])
def test_a_busy_engine_is_worth_waiting_for_where_it_saves_more(router: str, is_waited_for: bool) -> None:
    """An engine with half a second of prompts before it takes one that it knows almost whole, one that it knows nothing
    of goes elsewhere; a router without patience is not offered the busy engine."""
    driver = Driver.leading(router=router, backlog_s=0.2, block_tokens=BLOCK)
    size: dict[str, Any] = {"max_num_seqs": 64, "num_pages": 100_000, "max_model_len": 100_000}
    driver.engine("busy", kind="k", benchmark=STEPS, **size)
    driver.feed(events.CacheChanged(KvEvents("busy", "i1", 1, list(range(100, 139)))))
    driver.submit("before", prompt_tokens=5000)
    driver.engine("idle", kind="k", benchmark=STEPS, **size)
    for number in range(3):
        driver.submit(f"new{number}", prompt_tokens=BLOCK, block_hashes=(number,))
    assert {assignment.engine_id for assignment in driver.assignments[1:]} == {"idle"}
    driver.submit("known", prompt_tokens=40 * BLOCK, block_hashes=tuple(range(100, 140)))
    assert (driver.assignments[-1].engine_id == "busy") is is_waited_for


@pytest.mark.parametrize(("slo", "queued"), [(Slo(), 60_000), (Slo(ttft_ms=3000), 25_000)])
def test_patience_ends_where_waiting_takes_longer_than_it_saves(slo: Slo, queued: int) -> None:
    """A prompt that an engine knows almost whole, a second of work, does not wait six for it, and not two if the first
    token would be late then: it goes to another that is busy for half a second, when that has room."""
    driver = Driver.leading(router="predictive", block_tokens=BLOCK, backlog_s=0.2, admission_slack=None)
    size: dict[str, Any] = {"max_num_seqs": 64, "num_pages": 100_000, "max_model_len": 100_000}
    for name, before in (("knows", queued), ("other", 4500)):
        driver.engine(name, kind="k", benchmark=STEPS, **size)
        driver.submit(f"before {name}", prompt_tokens=before)
        assert driver.assignments[-1].engine_id == name
    driver.feed(events.CacheChanged(KvEvents("knows", "i1", 1, list(range(39)))))
    driver.submit("r1", prompt_tokens=39 * BLOCK + 4, block_hashes=tuple(range(39)), slo=slo)
    assert len(driver.assignments) == 2, "neither now"
    driver.report("other", last_assignment=driver.assignments[1].number)
    assert driver.assignments[-1].engine_id == "other"


def test_a_missed_event_is_repaired_by_asking_once_a_second() -> None:
    """A gap asks the engine for all it has, not with every event that follows; the answer makes the index right."""
    driver = fleet(router="cache_aware")
    for number in (2, 3, 4):
        driver.feed(events.CacheChanged(KvEvents("e2", "i1", number, [number])))
    assert [action.engine_id for action in driver.all(AskEngine)] == ["e2"]
    driver.feed(events.CacheLearnt(SnapshotReply(engine_id="e2", incarnation="i1", number=4, blocks=[1, 2, 3, 4])))
    driver.submit("r1", prompt_tokens=5 * BLOCK, block_hashes=(1, 2, 3, 4))
    assert driver.assignments[0].engine_id == "e2"


def test_an_engine_that_was_there_before_is_asked_for_its_cache() -> None:
    """A scheduler that starts beside it learns from its reports that there have been events; it asks until it knows."""
    driver = fleet(router="cache_aware")
    driver.report("e1", kv_number=0)
    for _ in range(3):
        driver.report("e2", kv_number=9)
    assert [action.engine_id for action in driver.all(AskEngine)] == ["e2"], "not with every report"
    driver.now += 1.0
    driver.report("e2", kv_number=9)
    assert len(driver.all(AskEngine)) == 2, "again, for no answer has come"
    driver.feed(events.CacheLearnt(SnapshotReply(engine_id="e2", incarnation="i1", number=9, blocks=[1, 2])))
    driver.now += 5.0
    driver.report("e2", kv_number=9)
    assert len(driver.all(AskEngine)) == 2
    driver.submit("r1", prompt_tokens=3 * BLOCK, block_hashes=(1, 2))
    assert driver.assignments[0].engine_id == "e2"


def test_an_event_on_its_way_is_not_asked_for() -> None:
    """A report may overtake the event that it names."""
    driver = fleet(router="cache_aware")
    driver.report("e2", kv_number=1)
    driver.feed(events.CacheChanged(KvEvents("e2", "i1", 1, [7])))
    driver.report("e2", kv_number=1)
    assert driver.all(AskEngine) == []


def test_a_new_incarnation_has_an_empty_cache() -> None:
    """What the old one had is forgotten, and events of the old one are not taken."""
    driver = fleet(router="cache_aware")
    driver.feed(events.CacheChanged(KvEvents("e2", "i1", 1, [1, 2])))
    driver.engine("e2", incarnation="i2", max_num_seqs=64, num_pages=100_000, max_model_len=100_000)
    driver.feed(events.CacheChanged(KvEvents("e2", "i1", 2, [1, 2])))
    driver.submit("r1", prompt_tokens=3 * BLOCK, block_hashes=(1, 2))
    assert all(candidate.cached_tokens == 0 for candidate in driver.records[-1].record.decisions[0].candidates)
