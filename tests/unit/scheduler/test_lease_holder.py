"""The edge of the lease."""

import asyncio
from typing import cast

from sagellm_common.bus import Bucket
from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.contracts.policy import Leader
from sagellm_scheduler.leadership.holder import LeaseHolder


class _FaultyBucket:
    """A bucket whose first call fails inside the library."""

    created_ns = 7

    def __init__(self) -> None:
        self.calls = 0

    async def create(self, key: str, value: Leader) -> int:
        self.calls += 1
        if self.calls == 1:
            raise AttributeError("a fault of the library")
        return 1

    async def update(self, key: str, value: Leader, revision: int) -> int:
        return revision + 1

    async def delete(self, key: str) -> None:
        """Nothing is left."""


async def test_a_fault_of_the_library_does_not_end_the_trying() -> None:
    """After a call that failed in an unknown way the next one is made, and leadership is gained."""
    gained: asyncio.Future[LeaderEpoch] = asyncio.get_running_loop().create_future()
    leader = Leader(scheduler_id="s1", started_at=0.0)
    bucket = cast(Bucket, _FaultyBucket())

    async def reopen() -> Bucket:
        return bucket

    holder = LeaseHolder(bucket, reopen, leader, gained.set_result, lambda reason: None)
    holder.start()
    assert await asyncio.wait_for(gained, 5) == (7, 1)
    await holder.stop()
