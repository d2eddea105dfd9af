"""Reading whole buckets on a real nats-server: exactly what is there, and nothing left behind on the server."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from nats.js.api import KeyValueConfig

from sagellm_common.bus import Bucket, Bus, reading
from sagellm_common.contracts.policy import Leader
from sagellm_common.errors import Unavailable
from sagellm_common.settings import BusSettings
from support.wait import eventually, eventually_async


@pytest.fixture
async def bucket(bus: Bus) -> Bucket:
    """An empty bucket without a time to live."""
    return await bus.bucket(bus.settings.subjects.bucket("read"))


@pytest.fixture
async def reader(bucket: Bucket, bus_settings: BusSettings) -> AsyncIterator[Bucket]:
    """The same bucket on another connection."""
    other = await Bus.connect(bus_settings, "reader")
    yield await other.bucket(bucket.name)
    await other.close()


def _leader(number: float) -> Leader:
    return Leader(scheduler_id="s", started_at=number)


async def _put(bucket: Bucket, numbers: dict[str, float]) -> None:
    await asyncio.gather(*(bucket.put(key, _leader(number)) for key, number in numbers.items()))


async def _numbers(bucket: Bucket) -> dict[str, float]:
    return {key: value.started_at for key, value in (await bucket.read_all(Leader)).items()}


async def test_two_thousand_quick_reads_leave_no_consumer(bus: Bus, bucket: Bucket) -> None:
    """Reading again and again costs the server nothing that stays."""
    await _put(bucket, {"a": 1.0, "b": 2.0})
    for _ in range(2000):
        assert await _numbers(bucket) == {"a": 1.0, "b": 2.0}
    info = await bus.client.jetstream().stream_info(f"KV_{bucket.name}")
    assert info.state.consumer_count == 0


async def test_a_follower_leaves_no_consumer(bus: Bus, bucket: Bucket) -> None:
    """Following reads the same way, and its own subscriptions end with it."""
    before = set(bus.client._subs)
    seen: dict[str, float] = {}
    follower = await bucket.follow(Leader, lambda key, value: seen.update({key: value.started_at}), seen.pop)
    await bucket.put("a", _leader(1.0))
    await eventually(lambda: seen == {"a": 1.0})
    assert (await bus.client.jetstream().stream_info(f"KV_{bucket.name}")).state.consumer_count == 0
    await follower.stop()
    assert set(bus.client._subs) == before


async def test_three_hundred_keys_are_read_exactly(bus: Bus, bucket: Bucket, reader: Bucket) -> None:
    """Deleted, purged and expired keys are absent, everything else has its last value."""
    store = await bus.client.jetstream().key_value(bucket.name)
    for index in range(20):
        await store.create(f"expired-{index}", b"", msg_ttl=1.0)
    await _put(bucket, {f"k-{index}": 0.0 for index in range(280)})
    await _put(bucket, {f"k-{index}": float(index) for index in range(1, 280, 2)})
    for index in range(0, 100, 10):
        await bucket.delete(f"k-{index}")
        await store.purge(f"k-{index + 1}")
    gone = {f"k-{index + offset}" for index in range(0, 100, 10) for offset in (0, 1)}
    wanted = {f"k-{index}": index * (index % 2.0) for index in range(280) if f"k-{index}" not in gone}

    async def all_expired() -> bool:
        return not any(key.startswith("expired") for key in await reader._read_raw())

    await eventually_async(all_expired)
    assert await _numbers(reader) == wanted


async def test_what_was_just_written_is_read(bucket: Bucket, reader: Bucket) -> None:
    """A value whose write is confirmed is in the next read on another connection, a deleted one is not."""
    for index in range(200):
        await bucket.put("a", _leader(index))
        assert await _numbers(reader) == {"a": float(index)}
        await bucket.delete("a")
        assert await _numbers(reader) == {}


async def test_keys_that_are_always_there_are_in_every_read(bucket: Bucket, reader: Bucket) -> None:
    """While every value is being replaced, no read misses a key or shows less than what was confirmed before it."""
    confirmed = dict.fromkeys((f"k-{index}" for index in range(40)), 0.0)
    await _put(bucket, confirmed)
    is_done = False

    async def rewrite() -> None:
        while not is_done:
            newer = {key: number + 1 for key, number in confirmed.items()}
            await _put(bucket, newer)
            confirmed.update(newer)

    writing = asyncio.create_task(rewrite())
    try:
        for _ in range(300):
            before = dict(confirmed)
            found = await _numbers(reader)
            assert found.keys() == before.keys()
            assert all(found[key] >= number for key, number in before.items())
    finally:
        is_done = True
        await writing


async def test_more_keys_than_the_server_looks_up_at_once(
    bucket: Bucket, reader: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket of more than 1024 keys is read over several pages of its stream."""
    monkeypatch.setattr(reading, "PAGE_MESSAGES", 300)
    await _put(bucket, {f"k-{index}": 0.0 for index in range(1200)})
    await _put(bucket, {f"k-{index}": 1.0 for index in range(100)})
    await bucket.delete("k-700")
    wanted = {f"k-{index}": float(index < 100) for index in range(1200) if index != 700}
    assert await _numbers(reader) == wanted


async def test_a_bucket_larger_than_a_page_is_read_completely(
    bucket: Bucket, reader: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the values exceed what the server may send at once, the next request goes on behind them."""
    monkeypatch.setattr(reading, "PAGE_BYTES", 500)
    wanted = {f"k-{index}": float(index) for index in range(50)}
    await _put(bucket, wanted)
    assert await _numbers(reader) == wanted


async def test_an_empty_bucket_is_empty_and_a_missing_one_unavailable(bus: Bus, bucket: Bucket, reader: Bucket) -> None:
    """Nothing is read only where the server says so."""
    assert await _numbers(reader) == {}
    await bucket.put("a", _leader(1.0))
    await bucket.delete("a")
    assert await _numbers(reader) == {}
    await bus.client.jetstream().delete_key_value(bucket.name)
    with pytest.raises(Unavailable, match=bucket.name):
        await _numbers(reader)


async def test_a_bucket_made_without_direct_reads_is_given_them(bus: Bus) -> None:
    """An older bucket keeps its values and its time to live, and can be read."""
    name = bus.settings.subjects.bucket("older")
    context = bus.client.jetstream()
    await context.create_key_value(KeyValueConfig(bucket=name, ttl=60.0, direct=False))
    before = (await context.stream_info(f"KV_{name}")).config
    assert not before.allow_direct
    bucket = await bus.bucket(name)
    await bucket.put("a", _leader(1.0))
    assert await _numbers(bucket) == {"a": 1.0}
    assert await bucket.get(Leader, "a") is not None
    assert (await context.stream_info(f"KV_{name}")).config == before.evolve(allow_direct=True)
