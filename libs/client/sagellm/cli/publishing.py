"""A JSON request on the bus as any NATS client would send it, and its replies printed as they come."""

import asyncio
import json

from nats.aio.msg import Msg

from sagellm.cli.console import err, out
from sagellm.client.nats_async import NO_RESPONDERS, cancel_on, read_reply
from sagellm.client.replies import ReplyReader
from sagellm_common.bus import Bus
from sagellm_common.bus.messages import check_payload
from sagellm_common.codec import CONTENT_TYPE, JSON
from sagellm_common.contracts.generate import GenerateReply
from sagellm_common.errors import DeadlineExceeded, InvalidArgument, Unavailable

EXAMPLE = """'{"messages": [{"role": "user", "content": "Hello"}]}'"""


def check_request(text: str) -> bytes:
    """Return the request as bytes if it is a JSON object; raises InvalidArgument with an example."""
    try:
        is_object = isinstance(json.loads(text), dict)
    except ValueError as error:
        raise InvalidArgument(f"the request is no JSON: {error}. Example: sagellm publish {EXAMPLE}") from error
    if not is_object:
        raise InvalidArgument(f"the request must be a JSON object. Example: sagellm publish {EXAMPLE}")
    return text.encode()


async def publish_and_print(bus: Bus, body: bytes, *, raw: bool, silence_s: float) -> None:
    """Publish `body` on `generate`, print what comes back; an interruption cancels the request."""
    arrived: asyncio.Queue[Msg] = asyncio.Queue()

    async def receive(msg: Msg) -> None:
        arrived.put_nowait(msg)

    headers = {CONTENT_TYPE: JSON}
    check_payload(body, headers, bus.max_payload)
    inbox = bus.new_inbox()
    await bus.client.subscribe(inbox, cb=receive)
    await bus.client.publish(bus.settings.subjects.generate, body, reply=inbox, headers=headers)
    reader = ReplyReader(is_chat=False, created=0)
    try:
        while not reader.done:
            _print(await _next(arrived, silence_s), reader, bus, raw=raw)
    finally:
        if not reader.done and reader.request_id is not None:
            await cancel_on(bus, reader.request_id)


async def _next(arrived: "asyncio.Queue[Msg]", silence_s: float) -> Msg:
    try:
        async with asyncio.timeout(silence_s):
            return await arrived.get()
    except TimeoutError:
        raise DeadlineExceeded(f"no reply for {silence_s:g} s; raise --timeout, or see `sagellm status`") from None


def _print(msg: Msg, reader: ReplyReader, bus: Bus, *, raw: bool) -> None:
    if (msg.headers or {}).get("Status") == NO_RESPONDERS:
        raise Unavailable(f"no gateway listens on {bus.settings.safe_url}: start one with `sagellm up`")
    reply = read_reply(msg)
    if raw:
        out().print(msg.data.decode(errors="replace"), markup=False)
    chunk = reader.take(reply)
    if raw or chunk is None:
        return
    for choice in chunk.choices:
        out().print(choice.added, end="", markup=False)
    for call in reply.tool_calls or ():
        out().print(f"{call.name}({call.arguments})", style="cyan", markup=False)
    if reader.done:
        out().print()
        _print_end(reply)


def _print_end(reply: GenerateReply) -> None:
    if reply.usage is None:
        return
    counts = f"{reply.usage.prompt_tokens} prompt + {reply.usage.completion_tokens} answer tokens"
    err().print(f"{counts}; why it went where it went: sagellm explain {reply.request_id}", style="dim")
