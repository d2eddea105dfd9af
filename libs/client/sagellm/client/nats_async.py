"""The asynchronous client over NATS: one publish, many replies in an inbox of its own."""

import asyncio
import logging
import sys
import time
from typing import Any

import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from sagellm.client.base import AsyncClient
from sagellm.client.replies import ReplyReader
from sagellm.client.results import Chunk, Model
from sagellm.client.spans import RequestSpan
from sagellm.client.where import nats_url
from sagellm_common.bus import Bus, Limits
from sagellm_common.bus.messages import decode_reply
from sagellm_common.codec import content_type_of, decode
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.generate import CancelRequest, GenerateReply, GenerateRequest
from sagellm_common.errors import DeadlineExceeded, InvalidArgument, SageError, Unavailable
from sagellm_common.settings import BusSettings

NO_RESPONDERS = "503"


class AsyncNatsClient(AsyncClient):
    """Asks models over NATS.

    `url` is by default SAGELLM_NATS_URL, else that of the stack that `sagellm up` or `serve` runs here. `timeout_s`
    limits a whole request, `silence_s` the time without any reply.
    """

    transport = "nats"

    def __init__(
        self,
        url: str | None = None,
        *,
        deployment: str | None = None,
        timeout_s: float = 600.0,
        silence_s: float = 60.0,
        settings: BusSettings | None = None,
    ) -> None:
        super().__init__(timeout_s=timeout_s)
        self._settings = settings or _settings(url, deployment)
        self._silence_s = silence_s
        self._bus: Bus | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    @property
    def settings(self) -> BusSettings:
        return self._settings

    async def connect(self) -> Bus:
        """Connect now instead of with the first request; raises Unavailable if no server answers."""
        async with self._connecting:
            if self._closed:
                raise Unavailable("this client has been closed; make a new one")
            if self._bus is None:
                _keep_stdout_clean()
                self._bus = await Bus.connect(self._settings, "sagellm-client")
            return self._bus

    async def _open(self, request: GenerateRequest, span: RequestSpan, *, stream: bool) -> "NatsSource":
        bus = await self.connect()
        source = NatsSource(bus, is_chat=request.messages is not None, silence_s=self._silence_s)
        await source.send(request, span.headers())
        return source

    async def models(self) -> list[Model]:
        """Return the models of all engines that are registered at the moment."""
        bus = await self.connect()
        engines = await (await bus.bucket(self._settings.subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)).read_all(
            EngineRegistration
        )
        since: dict[str, int] = {}
        for engine in engines.values():
            for model in engine.models:
                since[model] = min(since.get(model, int(engine.started_at)), int(engine.started_at))
        return [Model(id=model, created=created) for model, created in sorted(since.items())]

    async def cancel(self, request_id: str) -> None:
        """Stop a running request, whoever sent it; nothing happens if it has ended."""
        await cancel_on(await self.connect(), request_id)

    async def aclose(self) -> None:
        """Close the connection; the gateway notices and cancels what was open."""
        self._closed = True
        bus, self._bus = self._bus, None
        if bus is not None:
            await bus.close()

    async def __aenter__(self) -> "AsyncNatsClient":
        await self.connect()
        return self


def _keep_stdout_clean() -> None:
    """Send the bus' warnings to stderr, unless the program has set up structlog itself; its default is stdout."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )


async def cancel_on(bus: Bus, request_id: str) -> None:
    """Publish the cancellation of a request and see it off."""
    await bus.publish(bus.settings.subjects.cancel(request_id), CancelRequest(request_id=request_id))
    await bus.flush()


def _settings(url: str | None, deployment: str | None) -> BusSettings:
    named: dict[str, Any] = {"nats_url": nats_url(url)}
    if deployment is not None:
        named["deployment"] = deployment
    return BusSettings(**named)


def read_reply(msg: Msg) -> GenerateReply:
    """Decode a reply, also one that reports an error; raises the error if it is no reply but an error alone."""
    try:
        return decode(GenerateReply, msg.data, content_type_of(msg.headers))
    except InvalidArgument:
        return decode_reply(GenerateReply, msg)


class NatsSource:
    """The replies to one request, from its own inbox."""

    def __init__(self, bus: Bus, *, is_chat: bool, silence_s: float) -> None:
        self._bus = bus
        self._reader = ReplyReader(is_chat, int(time.time()))
        self._silence_s = silence_s
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()  # bounded by the subscription: see `send`
        self._subscription: Subscription | None = None

    @property
    def request_id(self) -> str | None:
        return self._reader.request_id

    async def send(self, request: GenerateRequest, headers: dict[str, str]) -> None:
        """Open the inbox and publish the request."""
        inbox, limits = self._bus.new_inbox(), Limits()
        self._subscription = await self._bus.client.subscribe(
            inbox, cb=self._receive, pending_msgs_limit=limits.messages, pending_bytes_limit=limits.size_bytes
        )
        try:
            await self._bus.publish(self._bus.settings.subjects.generate, request, reply=inbox, headers=headers)
        except SageError:
            await self._unsubscribe()
            raise

    async def _receive(self, msg: Msg) -> None:
        self._arrived.put_nowait(msg)

    async def next(self) -> Chunk | None:
        while not self._reader.done:
            chunk = self._reader.take(self._decode(await self._next_message()))
            if chunk is not None:
                return chunk
        return None

    async def _next_message(self) -> Msg:
        try:
            async with asyncio.timeout(self._silence_s):
                return await self._arrived.get()
        except TimeoutError:
            raise DeadlineExceeded(f"no reply for {self._silence_s:g} s; is a gateway running?") from None

    def _decode(self, msg: Msg) -> GenerateReply:
        headers = msg.headers or {}
        if headers.get("Status") == NO_RESPONDERS:
            raise Unavailable(
                f"no gateway listens on {self._bus.settings.safe_url} (deployment {self._bus.settings.deployment}): "
                "start one with `sagellm up`"
            )
        return read_reply(msg)

    async def close(self) -> None:
        """Leave the inbox, and cancel the request if it is still running."""
        if self._subscription is None:
            return
        await self._unsubscribe()
        if not self._reader.done and self.request_id is not None and self._bus.is_connected:
            await cancel_on(self._bus, self.request_id)

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None and not self._bus.client.is_closed:
            await subscription.unsubscribe()
