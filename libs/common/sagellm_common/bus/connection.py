"""One NATS connection with typed publish, request, subscribe and serve."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from typing import Any

import nats
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from sagellm_common.bus import tracing
from sagellm_common.bus.buckets import Bucket
from sagellm_common.bus.messages import (
    AnyMessage,
    Headers,
    Limits,
    Received,
    check_payload,
    content_headers,
    decode_reply,
    encode_error,
)
from sagellm_common.codec import MSGPACK, M, content_type_of, decode, encode
from sagellm_common.contracts.base import Message
from sagellm_common.errors import (
    DeadlineExceeded,
    ResourceExhausted,
    SageError,
    Unauthenticated,
    Unavailable,
    as_sage_error,
)
from sagellm_common.settings import BusSettings

log = structlog.get_logger(__name__)
OnMessage = Callable[[M, Received], None]
OnRequest = Callable[[M, Received], Awaitable[AnyMessage]]

MIN_SERVER = (2, 11)
MAX_HANDLERS = 4096


class BusState(Enum):
    """Where a connection stands."""

    NEW = "not connected yet"
    CONNECTED = "connected"
    DISCONNECTED = "connection lost, reconnecting without end"
    CLOSED = "closed by us"


class Bus:
    """The connection of one process to the bus.

    Every publish is checked against the server's `max_payload`, headers counted. Callbacks run on the event loop:
    `subscribe` takes plain functions that must not block; `serve` starts a task per request. `drops` counts, per
    subject, the messages that were lost because a subscription's limits were reached.
    """

    def __init__(self, settings: BusSettings, name: str) -> None:
        self.settings = settings
        self.name = name
        self.state = BusState.NEW
        self.connected_at: float | None = None
        self.reconnects = 0
        self.drops: Counter[str] = Counter()
        self._is_refused = False
        self._client = Client()
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_reconnect: list[Callable[[], None]] = []

    @classmethod
    async def connect(cls, settings: BusSettings, name: str) -> "Bus":
        """Connect; raises Unavailable with a sentence if no server answers in `connect_timeout_s`."""
        bus = cls(settings, name)
        await bus._open()
        return bus

    async def _open(self) -> None:
        attempt = self._client.connect(
            self.settings.servers,
            name=self.name,
            user=self.settings.nats_user,
            password=self.settings.password,
            inbox_prefix=self.settings.inbox_prefix,
            error_cb=self._failed,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            connect_timeout=2,
            reconnect_time_wait=0.2,  # type: ignore[arg-type]  # seconds; the library only sleeps them
            max_reconnect_attempts=-1,
            ping_interval=5,
            max_outstanding_pings=2,
            pending_size=64 * 1024 * 1024,
        )
        try:
            await _within(self.settings.connect_timeout_s, attempt)
        except (TimeoutError, OSError, nats.errors.Error, ValueError) as error:  # ValueError: it is no URL
            if self._is_refused:
                raise Unauthenticated(
                    f"the NATS server at {self.settings.safe_url} refuses user {self.settings.nats_user!r}: "
                    "set SAGELLM_NATS_USER and SAGELLM_NATS_PASSWORD"
                ) from error
            raise Unavailable(
                f"no NATS server answers at {self.settings.safe_url}: start one, or name another in SAGELLM_NATS_URL"
            ) from error
        self._connected()
        self._check_version()

    def _check_version(self) -> None:
        version = self._client.connected_server_version
        if (version.major, version.minor) < MIN_SERVER:
            raise Unavailable(f"the NATS server is version {version!r}; sageLLM needs 2.11 or newer")

    # state

    @property
    def is_connected(self) -> bool:
        return self.state is BusState.CONNECTED

    @property
    def max_payload(self) -> int:
        """Bytes that one message may have, headers included, by the server's own word."""
        return self._client.max_payload

    def up_for_s(self) -> float:
        """Seconds since the connection was last established; 0 while it is down."""
        return 0.0 if self.connected_at is None else time.monotonic() - self.connected_at

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` after every reconnect, once subscriptions stand again."""
        self._on_reconnect.append(callback)

    def _connected(self) -> None:
        self.state, self.connected_at = BusState.CONNECTED, time.monotonic()

    async def _disconnected(self) -> None:
        if self.state is BusState.CONNECTED:
            self.state, self.connected_at = BusState.DISCONNECTED, None
            log.warning("bus_disconnected", url=self.settings.safe_url)

    async def _reconnected(self) -> None:
        self._connected()
        self.reconnects += 1
        log.info("bus_reconnected", url=self.settings.safe_url)
        for callback in self._on_reconnect:
            callback()

    async def _failed(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            self.drops[error.subject] += 1
            if self.drops[error.subject] in (1, 100, 10_000):
                log.error("bus_messages_dropped", subject=error.subject, dropped=self.drops[error.subject])
        elif self.state is not BusState.CLOSED:
            # kept: closing the refused connection can end in a reset, which is reported after the refusal
            self._is_refused = self._is_refused or "authorization" in str(error).lower()
            log.warning("bus_error", error=str(error) or type(error).__name__)

    async def close(self) -> None:
        """Finish what is in flight, then close; safe to call twice."""
        if self.state is BusState.CLOSED:
            return
        was_connected = self.is_connected
        self.state = BusState.CLOSED
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if was_connected:
            try:
                await self._client.flush(timeout=2)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                log.warning("bus_flush_failed", error=str(error))
        await self._client.close()

    async def flush(self) -> None:
        """Return once the server has everything published and subscribed so far."""
        try:
            await self._client.flush(timeout=10)
        except (nats.errors.Error, OSError) as error:
            raise _bus_error(error, "flush") from error

    # sending

    async def publish(
        self,
        subject: str,
        message: AnyMessage,
        *,
        reply: str = "",
        content_type: str = MSGPACK,
        headers: Headers | None = None,
    ) -> None:
        """Publish a message; raises PayloadTooLarge, or Unavailable if nothing more can be buffered."""
        data = encode(message, content_type)
        all_headers = {**content_headers(content_type), **(headers or {})}
        if isinstance(message, Message):
            tracing.inject(all_headers)
        await self._send(subject, data, reply, all_headers)

    async def _send(self, subject: str, data: bytes, reply: str, headers: dict[str, str]) -> None:
        check_payload(data, headers, self._client.max_payload)
        try:
            await self._client.publish(subject, data, reply=reply, headers=headers or None)
        except (nats.errors.Error, OSError) as error:
            raise _bus_error(error, subject) from error

    async def request(
        self,
        subject: str,
        message: Message,
        reply_type: type[M],
        *,
        timeout_s: float = 5.0,
        headers: Headers | None = None,
        content_type: str = MSGPACK,
    ) -> M:
        """Send a request and return its reply.

        Raises the error that the other side replied, Unavailable if nobody listens, DeadlineExceeded if no reply
        came in `timeout_s`.
        """
        data = encode(message, content_type)
        all_headers = {**content_headers(content_type), **(headers or {})}
        tracing.inject(all_headers)
        check_payload(data, all_headers, self._client.max_payload)
        try:
            msg = await self._client.request(subject, data, timeout=timeout_s, headers=all_headers or None)
        except (nats.errors.Error, OSError) as error:
            raise _bus_error(error, subject) from error
        return decode_reply(reply_type, msg)

    # receiving

    async def subscribe(
        self,
        subject: str,
        message_type: type[M],
        handler: OnMessage[M],
        *,
        queue: str = "",
        limits: Limits | None = None,
    ) -> Subscription:
        """Call `handler` for each message, in order; what cannot be decoded is logged and dropped."""

        async def receive(msg: Msg) -> None:
            try:
                handler(decode(message_type, msg.data, content_type_of(msg.headers)), Received.of(msg))
            except SageError as error:
                log.warning("message_refused", subject=msg.subject, code=error.code, error=error.message)
            except Exception:
                log.exception("handler_failed", subject=msg.subject)

        return await self._subscribe(subject, receive, queue, limits)

    async def serve(
        self,
        subject: str,
        request_type: type[M],
        handler: OnRequest[M],
        *,
        queue: str = "",
        limits: Limits | None = None,
    ) -> Subscription:
        """Answer requests: each runs as a task of its own; an exception becomes an error reply."""

        async def receive(msg: Msg) -> None:
            if len(self._tasks) >= MAX_HANDLERS:
                await self._reply_error(msg, ResourceExhausted("too many requests at once", retry_after_s=1.0))
                return
            self.spawn(self._answer(msg, request_type, handler))

        return await self._subscribe(subject, receive, queue, limits)

    async def _subscribe(
        self, subject: str, receive: Callable[[Msg], Awaitable[None]], queue: str, limits: Limits | None
    ) -> Subscription:
        limits = limits or Limits()
        return await self._client.subscribe(
            subject,
            queue=queue,
            cb=receive,
            pending_msgs_limit=limits.messages,
            pending_bytes_limit=limits.size_bytes,
        )

    def spawn(self, work: Any) -> asyncio.Task[None]:
        """Run a coroutine as a task that is cancelled when the bus closes."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(self, msg: Msg, request_type: type[M], handler: OnRequest[M]) -> None:
        received = Received.of(msg)
        try:
            with tracing.continued(received.headers):
                answer = await handler(decode(request_type, msg.data, received.content_type), received)
            if msg.reply:
                await self.publish(msg.reply, answer, content_type=received.content_type)
        except Exception as error:
            if not isinstance(error, SageError):
                log.exception("handler_failed", subject=msg.subject)
            await self._reply_error(msg, as_sage_error(error))

    async def _reply_error(self, msg: Msg, error: SageError) -> None:
        if not msg.reply:
            log.warning("message_refused", subject=msg.subject, code=error.code, error=error.message)
            return
        data, headers = encode_error(error, content_type_of(msg.headers))
        try:
            await self._send(msg.reply, data, "", headers)
        except SageError as failed:
            log.warning("reply_failed", subject=msg.subject, error=failed.message)

    # raw access for what has no typed form

    def new_inbox(self) -> str:
        """A subject of our own, under our inbox prefix."""
        return self._client.new_inbox()

    @property
    def client(self) -> Client:
        """The library's client, for micro services and JetStream."""
        return self._client

    async def jetstream(self) -> JetStreamContext:
        """JetStream, checked to be there; raises Unavailable with what to do if it is not."""
        context = self._client.jetstream(timeout=5)
        try:
            await context.account_info()
        except (nats.errors.Error, nats.js.errors.Error) as error:
            raise Unavailable("the NATS server has no JetStream: start it with `nats-server -js`") from error
        return context

    async def bucket(self, name: str, *, ttl_s: float | None = None, history: int = 1) -> Bucket:
        """Open a KV bucket, creating it with file storage if it is not there."""
        return await Bucket.open(await self.jetstream(), self._client, name, ttl_s=ttl_s, history=history)


async def _within(timeout_s: float, work: Coroutine[Any, Any, None]) -> None:
    """Wait for `work` at most so long; raises TimeoutError.

    It is cancelled until it has ended: the library can lose a cancellation inside its own waits, and would go on
    connecting for ever.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
        if task.done():
            return task.result()
        raise TimeoutError
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)


def _bus_error(error: Exception, subject: str) -> SageError:
    """Map an exception of the library to one of ours."""
    if isinstance(error, nats.errors.NoRespondersError):
        return Unavailable(f"nobody answers on {subject}")
    if isinstance(error, nats.errors.TimeoutError):
        return DeadlineExceeded(f"no reply on {subject} in time")
    return Unavailable(f"the bus cannot take a message for {subject}: {type(error).__name__}")
