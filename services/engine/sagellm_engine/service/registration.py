"""The engine's entry in the bucket `engines`: written at start, renewed while it lives, removed at the end."""

import asyncio
import contextlib

import structlog

from sagellm_common.bus import Bucket, Bus
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.errors import SageError, Unavailable
from sagellm_common.subjects import encode_token

log = structlog.get_logger(__name__)
RENEW_S = 3.0
RETRY_S = 0.5


class Registration:
    """Writes, renews and removes the entry of one engine process."""

    def __init__(self, bus: Bus, entry: EngineRegistration) -> None:
        self._bus = bus
        self.entry = entry
        self._key = encode_token(entry.engine_id)
        self._bucket: Bucket | None = None
        self._revision = 0
        self._replaced = False
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Write the entry, whoever's was there; raises Unavailable without JetStream."""
        bucket = await self._open()
        self._revision = await bucket.put(self._key, self.entry)

    def change(self, entry: EngineRegistration) -> None:
        """Publish a changed entry soon."""
        self.entry = entry
        self._changed.set()

    async def remove(self) -> None:
        """Remove the entry if it is ours, renewing having been stopped; without a bus it expires."""
        if self._bucket is None or not self._bus.is_connected:
            return
        try:
            found = await self._bucket.get(EngineRegistration, self._key)
            if found is not None and found[0].incarnation == self.entry.incarnation:
                await self._bucket.delete(self._key)
        except Unavailable as error:
            log.warning("registration_not_removed", error=error.message)

    async def _open(self) -> Bucket:
        self._bucket = await self._bus.bucket(self._bus.settings.subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
        return self._bucket

    async def keep(self) -> None:
        """Renew until cancelled; raises Unavailable when a younger process has taken the same engine id."""
        wait_s = RENEW_S
        while not self._replaced:
            with contextlib.suppress(TimeoutError):  # no change came: renew all the same
                async with asyncio.timeout(wait_s):  # wait_for can swallow a cancellation (Python 3.11)
                    await self._changed.wait()
            self._changed.clear()
            try:
                await self._renew()
                wait_s = RENEW_S
            except SageError as error:
                if wait_s != RETRY_S:  # once per outage
                    log.warning("registration_not_renewed", error=error.message)
                wait_s = RETRY_S
        raise Unavailable(f"another process has taken the engine id {self.entry.engine_id}")

    async def _renew(self) -> None:
        """Renew; if the entry is not as we left it, find out why."""
        if not self._bus.is_connected:
            raise Unavailable("the bus is down")
        bucket = self._bucket or await self._open()
        try:
            revision = await bucket.update(self._key, self.entry, self._revision)
            if revision is None and not await self._taken(bucket):
                revision = await bucket.put(self._key, self.entry)
        except Unavailable:
            self._bucket = None  # it may have gone with the server's storage: open it again
            raise
        self._revision = revision or self._revision

    async def _taken(self, bucket: Bucket) -> bool:
        found = await bucket.get(EngineRegistration, self._key)
        other = found[0] if found is not None else self.entry
        self._replaced = other.incarnation != self.entry.incarnation and other.started_at > self.entry.started_at
        return self._replaced
