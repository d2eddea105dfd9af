"""Buckets on a bus that does not answer."""

import asyncio
from typing import cast

import pytest
from nats.aio.client import Client
from nats.js.kv import KeyValue

from sagellm_common.bus import Bucket, buckets
from sagellm_common.contracts.policy import Leader
from sagellm_common.errors import Unavailable


class _SilentWatcher:
    """A watcher whose connection was lost before anything came."""

    is_stopped = False

    def __aiter__(self) -> "_SilentWatcher":
        return self

    async def __anext__(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None:
        self.is_stopped = True


class _SilentStore:
    """The library's bucket on such a connection."""

    def __init__(self) -> None:
        self.watcher = _SilentWatcher()

    async def watchall(self, *, ignore_deletes: bool) -> _SilentWatcher:
        return self.watcher


async def test_a_read_that_is_never_answered_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading gives up after a while, so that a follower goes on instead of showing the same state for ever."""
    monkeypatch.setattr(buckets, "READ_TIMEOUT_S", 0.05)
    store = _SilentStore()
    bucket = Bucket(cast(KeyValue, store), cast(Client, None), "engines", 0)
    with pytest.raises(Unavailable, match="engines"):
        await asyncio.wait_for(bucket.read_all(Leader), 5)
    assert store.watcher.is_stopped
