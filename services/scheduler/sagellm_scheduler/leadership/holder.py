"""The edge of the lease: carries its core's calls to the bucket and tells who leads."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from sagellm_common.bus import Bucket
from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.contracts.policy import Leader
from sagellm_common.errors import SageError
from sagellm_scheduler.leadership.lease import (
    Answered,
    Create,
    Due,
    Failed,
    Gained,
    LeaseAction,
    LeaseConfig,
    LeaseCore,
    LeaseEvent,
    Lost,
    Update,
)

log = structlog.get_logger(__name__)
KEY = "scheduler"
TICK_S = 0.05
CALL_TIMEOUT_S = 1.0


class LeaseHolder:
    """Keeps trying for the lease until it is stopped; the callbacks run on the event loop.

    `reopen` opens the bucket anew when it cannot be used: it may have gone with the server's storage.
    """

    def __init__(
        self,
        bucket: Bucket,
        reopen: Callable[[], Awaitable[Bucket]],
        leader: Leader,
        on_gained: Callable[[LeaderEpoch], None],
        on_lost: Callable[[str], None],
        config: LeaseConfig | None = None,
    ) -> None:
        self._bucket, self._reopen, self._leader = bucket, reopen, leader
        self._on_gained, self._on_lost = on_gained, on_lost
        self._core = LeaseCore(config or LeaseConfig())
        self._task: asyncio.Task[None] | None = None

    def is_valid(self) -> bool:
        """Whether we lead now, by our own clock."""
        return self._core.is_valid(time.monotonic())

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop trying; a lease that is still ours is given back, so that a standby need not wait for it to run out."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.is_valid():
            try:
                await asyncio.wait_for(self._bucket.delete(KEY), CALL_TIMEOUT_S)
            except (SageError, TimeoutError) as error:
                log.warning("lease_not_given_back", error=str(error))

    async def _run(self) -> None:
        while True:
            try:
                await self._feed(Due())
            except Exception:
                log.exception("lease_failed")
            await asyncio.sleep(TICK_S)

    async def _feed(self, event: LeaseEvent) -> None:
        for action in self._core.handle(event, time.monotonic()):
            await self._perform(action)

    async def _perform(self, action: LeaseAction) -> None:
        if isinstance(action, Gained):
            self._on_gained(action.leader_epoch)
        elif isinstance(action, Lost):
            self._on_lost(action.reason)
        else:
            await self._feed(await self._call(action))

    async def _call(self, action: Create | Update) -> LeaseEvent:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                revision = await self._write(action)
        except (SageError, TimeoutError) as error:
            log.warning("lease_call_failed", error=str(error) or "no answer in time")
            return Failed()
        except Exception:  # a call that is never answered would be the last one
            log.exception("lease_call_failed")
            return Failed()
        return Answered(revision, self._bucket.created_ns)

    async def _write(self, action: Create | Update) -> int | None:
        try:
            if isinstance(action, Create):
                return await self._bucket.create(KEY, self._leader)
            return await self._bucket.update(KEY, self._leader, action.revision)
        except SageError:
            self._bucket = await self._reopen()
            raise
