"""KV buckets for low-rate facts: typed reads and writes, and following what changes.

A bucket's own time to live removes entries silently, so following combines two sources: the core subject
`$KV.<bucket>.>` as a hint that a key has changed, and full reads, after each hint and every few seconds.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Generic, TypeVar

import nats.errors
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType, StreamConfig
from nats.js.kv import KeyValue

from sagellm_common.bus.reading import read_values
from sagellm_common.codec import decode, encode
from sagellm_common.contracts.base import Message
from sagellm_common.errors import SageError, Unavailable

log = structlog.get_logger(__name__)
V = TypeVar("V", bound=Message)
READ_TIMEOUT_S = 5.0
REREAD_S = (0.002, 0.02, 0.2)
_FAULTS = (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError)


class Bucket:
    """One KV bucket; keys are subject tokens, values are messages. Faults of the bus raise Unavailable."""

    def __init__(self, kv: KeyValue, client: Client, name: str, created_ns: int) -> None:
        self._kv = kv
        self._client = client
        self.name = name
        self.created_ns = created_ns

    @classmethod
    async def open(
        cls, js: JetStreamContext, client: Client, name: str, *, ttl_s: float | None, history: int
    ) -> "Bucket":
        """Open or create the bucket; an existing one keeps its settings, but is made to allow direct reads."""
        config = KeyValueConfig(bucket=name, ttl=ttl_s, history=history, storage=StorageType.FILE, direct=True)
        try:
            kv = await _open_or_create(js, config)
            info = await js.stream_info(f"KV_{name}")
            if not info.config.allow_direct:
                kv = await _with_direct_reads(js, name, info.config)
        except _FAULTS as error:
            raise Unavailable(f"the bucket {name} cannot be opened: {error}") from error
        created = info.created
        return cls(kv, client, name, int(created.timestamp() * 1e9) if created else 0)

    async def put(self, key: str, value: Message) -> int:
        """Write whatever was there before; returns the revision."""
        try:
            return await self._kv.put(key, encode(value))
        except _FAULTS as error:
            raise Unavailable(f"{self.name}: cannot write {key}") from error

    async def create(self, key: str, value: Message) -> int | None:
        """Write only if the key is absent; returns the revision, or None if somebody else has it."""
        try:
            return await self._kv.create(key, encode(value))
        except nats.js.errors.KeyWrongLastSequenceError:
            return None
        except _FAULTS as error:
            raise Unavailable(f"{self.name}: cannot create {key}") from error

    async def update(self, key: str, value: Message, revision: int) -> int | None:
        """Write only if the last revision is ours; returns the new one, or None if it is not."""
        try:
            return await self._kv.update(key, encode(value), last=revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            return None
        except _FAULTS as error:
            raise Unavailable(f"{self.name}: cannot update {key}") from error

    async def get(self, cls: type[V], key: str) -> tuple[V, int] | None:
        """Return value and revision, or None if the key is absent."""
        try:
            entry = await self._kv.get(key)
        except nats.js.errors.KeyNotFoundError:
            return None
        except _FAULTS as error:
            raise Unavailable(f"{self.name}: cannot read {key}") from error
        return decode(cls, entry.value or b""), entry.revision or 0

    async def delete(self, key: str) -> None:
        """Remove a key; nothing happens if it is absent."""
        try:
            await self._kv.delete(key)
        except nats.js.errors.KeyNotFoundError:
            return
        except _FAULTS as error:
            raise Unavailable(f"{self.name}: cannot delete {key}") from error

    async def read_all(self, cls: type[V]) -> dict[str, V]:
        """Return all keys and values; what cannot be decoded is left out and logged."""
        raw = await self._read_raw()
        return {key: value for key, data in raw.items() if (value := _decoded(cls, key, data)) is not None}

    async def _read_raw(self) -> dict[str, bytes]:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):  # a connection lost meanwhile would leave it waiting for ever
                return await read_values(self._client, self.name)
        except _FAULTS as error:
            raise Unavailable(f"{self.name}: cannot be read: {str(error) or 'no answer came in time'}") from error

    async def follow(
        self,
        cls: type[V],
        on_put: Callable[[str, V], None],
        on_gone: Callable[[str], None],
        *,
        resync_s: float = 2.0,
    ) -> "Follower[V]":
        """Report all entries and then every change until the follower is stopped; the first read is done on return."""
        follower = Follower(self, cls, on_put, on_gone, resync_s)
        await follower.start()
        return follower


class Follower(Generic[V]):
    """Keeps a copy of a bucket up to date and reports what changes."""

    def __init__(
        self,
        bucket: Bucket,
        cls: type[V],
        on_put: Callable[[str, V], None],
        on_gone: Callable[[str], None],
        resync_s: float,
    ) -> None:
        self._bucket, self._cls = bucket, cls
        self._on_put, self._on_gone, self._resync_s = on_put, on_gone, resync_s
        self._known: dict[str, bytes] = {}
        self._hinted: dict[str, bytes | None] = {}
        self._rereads: list[float] = []
        self._wake = asyncio.Event()
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read everything once, then keep following in a task."""
        prefix = f"$KV.{self._bucket.name}."
        self._subscription = await self._bucket._client.subscribe(f"{prefix}>", cb=self._hint)
        await self.resync()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop following; nothing is reported afterwards."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if not self._bucket._client.is_closed:
            await self._subscription.unsubscribe()

    async def resync(self) -> None:
        """Read everything now and report the differences."""
        async with self._reading:  # what was read first must not be reported last
            found = await self._bucket._read_raw()
            for key in [key for key in self._known if key not in found]:
                del self._known[key]
                self._on_gone(key)
            for key, data in found.items():
                self._report(key, data)

    def _report(self, key: str, data: bytes) -> None:
        if self._known.get(key) == data:
            return
        self._known[key] = data
        value = _decoded(self._cls, key, data)
        if value is not None:
            self._on_put(key, value)

    async def _hint(self, msg: Msg) -> None:
        key = msg.subject.split(".", 2)[2]
        self._hinted[key] = None if "KV-Operation" in (msg.headers or {}) else msg.data
        if self._known.get(key) != self._hinted[key]:
            self._rereads = list(REREAD_S)
            self._wake.set()

    def _next_read_s(self) -> float:
        """Soon, while a hint has no effect: it can come before the server has stored what it announces.

        Not for ever: the server may have refused the write.
        """
        self._hinted = {key: data for key, data in self._hinted.items() if self._known.get(key) != data}
        if self._hinted and self._rereads:
            return self._rereads.pop(0)
        self._hinted.clear()
        return self._resync_s

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):  # no hint came: read all the same
                async with asyncio.timeout(self._next_read_s()):  # wait_for can swallow a cancellation (Python 3.11)
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.resync()
            except SageError as error:
                log.warning("bucket_unreadable", bucket=self._bucket.name, error=error.message)
                await asyncio.sleep(0.2)
            except Exception:
                log.exception("bucket_follower_failed", bucket=self._bucket.name)


def _decoded(cls: type[V], key: str, data: bytes) -> V | None:
    try:
        return decode(cls, data)
    except SageError as error:
        log.warning("bucket_entry_refused", key=key, error=error.message)
        return None


async def _open_or_create(js: JetStreamContext, config: KeyValueConfig) -> KeyValue:
    try:
        return await js.key_value(config.bucket)
    except nats.js.errors.NotFoundError:
        try:
            return await js.create_key_value(config)
        except nats.js.errors.BadRequestError:  # another process has just created it
            return await js.key_value(config.bucket)


async def _with_direct_reads(js: JetStreamContext, name: str, config: StreamConfig) -> KeyValue:
    try:
        await js.update_stream(config.evolve(allow_direct=True))
        return await js.key_value(name)
    except _FAULTS as error:
        raise Unavailable(
            f"the bucket {name} was made without direct reads, and this user may not change it: "
            f"`nats stream edit KV_{name} --allow-direct`"
        ) from error
