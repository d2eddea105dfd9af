"""The answer to a generation request, from its body to its last byte, as one lean ASGI response."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sagellm_common.bus.tracing import continued
from sagellm_common.errors import DeadlineExceeded, SageError, as_sage_error
from sagellm_gateway.generation.api import Gateway, Generation
from sagellm_gateway.http.batch import submit_all
from sagellm_gateway.http.body import read_body
from sagellm_gateway.http.collected import Collected, collect
from sagellm_gateway.http.disconnect import cancelled_on_disconnect
from sagellm_gateway.http.errors import error_body, send_error
from sagellm_gateway.http.plan import Plan
from sagellm_gateway.http.sse import DONE, Events

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Api:
    """What tells one generation API from the other."""

    plan: Callable[[bytes, Headers], Plan]
    events: Callable[[Generation, Plan], Events]
    whole: Callable[[Generation, list[Collected], Plan], bytes]


class Answer(Response):
    """Serves one request: reads, submits, then streams or gathers. A client that goes away cancels it at once.

    The status is sent with the first tokens, so that a refusal after queueing still has its own status; an error
    after that ends the stream with an event that says so.
    """

    def __init__(self, gateway: Gateway, api: Api, max_body_bytes: int) -> None:
        super().__init__()
        self._gateway, self._api, self._max_body_bytes = gateway, api, max_body_bytes
        self._request_id: str | None = None
        self._is_read = False
        self._is_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = Headers(scope=scope)
            body = await read_body(headers, receive, self._max_body_bytes)
            self._is_read = True
            async with cancelled_on_disconnect(receive):
                with continued(headers):
                    await self._answer(self._api.plan(body, headers), send)
        except Exception as error:  # whatever it is, the client gets a typed answer, and the server goes on
            await self._fail(error, send)

    async def _answer(self, plan: Plan, send: Send) -> None:
        generation = await submit_all(self._gateway, plan.requests)
        self._request_id = generation.request_id
        try:
            await (self._stream(generation, plan, send) if plan.stream else self._whole(generation, plan, send))
        except BaseException:
            await generation.cancel("the client went away, or its answer could not be sent")
            raise

    async def _stream(self, generation: Generation, plan: Plan, send: Send) -> None:
        events = self._api.events(generation, plan)
        async for deltas in generation:
            data = events.encode(deltas)
            if not self._is_started:
                await self._start(send, b"text/event-stream; charset=utf-8", (b"cache-control", b"no-cache"))
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        if not self._is_started:
            await self._start(send, b"text/event-stream; charset=utf-8", (b"cache-control", b"no-cache"))
        end = events.usage(generation.usage) + DONE if plan.include_usage else DONE
        await send({"type": "http.response.body", "body": end})

    async def _whole(self, generation: Generation, plan: Plan, send: Send) -> None:
        choices = await collect(generation)
        body = self._api.whole(generation, choices, plan)
        await self._start(send, b"application/json", (b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.body", "body": body})

    async def _start(self, send: Send, content_type: bytes, *headers: tuple[bytes, bytes]) -> None:
        self._is_started = True
        request_id = (self._request_id or "").encode()
        all_headers = [(b"content-type", content_type), (b"x-request-id", request_id), *headers]
        await send({"type": "http.response.start", "status": 200, "headers": all_headers})

    async def _fail(self, error: Exception, send: Send) -> None:
        if not isinstance(error, SageError):
            _log.error("request_failed", request_id=self._request_id, exc_info=error)
        known = as_sage_error(error)
        if self._is_started:
            event = b"data: " + error_body(known) + b"\n\n"
            await send({"type": "http.response.body", "body": event})
        else:
            # A client that sends too slowly would go on to do so.
            is_slow = isinstance(known, DeadlineExceeded) and not self._is_read
            await send_error(send, known, self._request_id, close=is_slow)
