"""Takes requests from the queue group of all gateways and streams the replies back."""

import asyncio
import time

import structlog
from nats.aio.msg import Msg

from sagellm_common.bus import Bus
from sagellm_common.bus.tracing import continued
from sagellm_common.codec import JSON, content_type_of, decode
from sagellm_common.contracts.generate import GenerateRequest
from sagellm_common.errors import InvalidArgument, ResourceExhausted, SageError, as_sage_error
from sagellm_common.subjects import GATEWAY_QUEUE
from sagellm_gateway.edge.reply_subject import is_callers_own
from sagellm_gateway.edge.tasks import Tasks
from sagellm_gateway.generation.api import Gateway
from sagellm_gateway.nats_api.caller import Caller, is_settled

log = structlog.get_logger(__name__)
LOOK_S = 0.25
LAST_REPLIES_S = 2.0
NO_RESPONDERS = "503"
MAX_PENDING = 16_384
MAX_LOGGED = 200


class NatsApi:
    """`generate` on the bus; one task per request, `max_open` at most."""

    def __init__(self, bus: Bus, gateway: Gateway, max_open: int) -> None:
        self._bus = bus
        self._gateway = gateway
        self._max_open = max_open
        self._num_open = 0
        self._tasks = Tasks()
        self._callers: dict[str, Caller] = {}
        self._probes = bus.new_inbox()
        self._numbered = 0

    async def start(self) -> None:
        """Subscribe; returns once the server delivers to us."""
        client = self._bus.client
        self._misses = await client.subscribe(f"{self._probes}.*", cb=self._missed)
        self._requests = await client.subscribe(
            self._bus.settings.subjects.generate, queue=GATEWAY_QUEUE, cb=self._receive, pending_msgs_limit=MAX_PENDING
        )
        self._tasks.spawn(self._look())
        await self._bus.flush()

    async def drain(self) -> None:
        """Leave the queue group: new requests go to other gateways, those that are here already are answered."""
        if self._bus.is_connected:
            await self._requests.drain()  # type: ignore[no-untyped-call]  # the library leaves it unannotated

    async def stop(self) -> None:
        """Wait until the last replies are out, for `LAST_REPLIES_S` at most, then stop."""
        deadline = time.monotonic() + LAST_REPLIES_S
        while self._callers and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await self._tasks.close()

    async def _receive(self, msg: Msg) -> None:
        if not msg.reply:
            log.warning("generate_without_reply", subject=msg.subject)
            return
        if not is_callers_own(msg.reply):
            log.warning("generate_refused", code=InvalidArgument.code, reply=msg.reply[:MAX_LOGGED])
            return
        if self._num_open >= self._max_open:
            await self._refuse(msg)
            return
        self._num_open += 1
        self._tasks.spawn(self._count_and_serve(msg))

    async def _refuse(self, msg: Msg) -> None:
        """Answer at once, without a task: whoever is too many must cost nothing that lasts."""
        caller = Caller(self._bus, msg.reply, _content_type(msg), "")
        try:
            await caller.refused(ResourceExhausted("too many requests are open; try again later", retry_after_s=1.0))
        except SageError as lost:
            log.warning("reply_failed", error=lost.message)

    async def _count_and_serve(self, msg: Msg) -> None:
        try:
            await self._serve(msg)
        finally:
            self._num_open -= 1

    async def _serve(self, msg: Msg) -> None:
        content_type = _content_type(msg)
        self._numbered += 1
        key = f"{self._probes}.{self._numbered}"
        caller = self._callers[key] = Caller(self._bus, msg.reply, content_type, key)
        try:
            with continued(msg.headers or {}):
                await self._generate(caller, msg.data, content_type)
        except Exception as error:
            if not isinstance(error, SageError):
                log.exception("generate_failed")
            await self._fail(caller, as_sage_error(error))
        finally:
            del self._callers[key]

    async def _generate(self, caller: Caller, data: bytes, content_type: str) -> None:
        request = decode(GenerateRequest, data, content_type)
        generation = await self._gateway.submit(request)
        try:
            await caller.accepted(generation, with_token_ids=request.return_token_ids)
            async for deltas in generation:
                await caller.deltas(generation, deltas)
            await caller.finished(generation, generation.usage)
        finally:
            await generation.cancel("the reply could not be delivered")

    async def _fail(self, caller: Caller, error: SageError) -> None:
        try:
            await caller.failed(error)
        except SageError as lost:
            log.warning("reply_failed", error=lost.message)

    async def _missed(self, msg: Msg) -> None:
        """The server says that nobody listens to a reply: its caller is gone."""
        caller = self._callers.get(msg.subject)
        is_miss = (msg.headers or {}).get("Status") == NO_RESPONDERS and is_settled(self._bus)
        if is_miss and caller is not None and caller.generation is not None:
            await caller.generation.cancel("the caller went away")

    async def _look(self) -> None:
        """See to it that each caller is probed once a second, also while its stream is silent."""
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            for caller in list(self._callers.values()):
                try:
                    await caller.probe(now)
                except SageError as error:
                    log.info("probe_not_sent", code=error.code)


def _content_type(msg: Msg) -> str:
    """JSON or msgpack, by the header; without one, a body that begins as a JSON object is JSON.

    A msgpack map never begins with that byte.
    """
    if not msg.headers and msg.data[:1] == b"{":
        return JSON
    return content_type_of(msg.headers)
