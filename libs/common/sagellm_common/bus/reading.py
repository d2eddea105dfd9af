"""Reading a whole bucket without a consumer: the server's batched direct get (its ADR-31, NATS 2.11).

One request names all keys by a wildcard and is answered with the last message of each, as long as there are at most
1024; a bucket with more is read in the order of its stream. Only the server's own word ends a read or says that a
bucket is empty. Every answer names the one before it, so that one lost in a reconnect is noticed.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

PAGE_BYTES = 4 * 1024 * 1024  # a page comes without flow control, and the server drops who is 64 MiB behind
PAGE_MESSAGES = 1000
ATTEMPTS = 10


class _IncompleteError(Exception):
    """The bucket has changed under the server's answer, or a part of it is lost: it must be asked again."""


class _TooManyKeysError(Exception):
    """The server does not look up the last messages of so many keys at once."""


async def read_values(client: Client, bucket: str) -> dict[str, bytes]:
    """Return the value of every key in the order of writing; deleted and purged keys are absent.

    Raises the errors of the library; if no answer comes at all, it waits until it is cancelled.
    """
    for _ in range(ATTEMPTS):
        with contextlib.suppress(_IncompleteError):
            return await _read(client, bucket)
    raise nats.errors.Error("the server's answers stay incomplete")


async def _read(client: Client, bucket: str) -> dict[str, bytes]:
    keys = f"$KV.{bucket}.>"
    try:
        return await _read_pages(client, bucket, {"multi_last": [keys]})
    except _TooManyKeysError:
        return await _read_pages(client, bucket, {"next_by_subj": keys, "batch": PAGE_MESSAGES})


async def _read_pages(client: Client, bucket: str, request: Mapping[str, Any]) -> dict[str, bytes]:
    """Read page by page: whatever is written meanwhile has a later sequence and comes with a later page."""
    values: dict[str, bytes] = {}
    start = 1
    while True:
        stored, end = await _ask(client, bucket, {**request, "seq": start, "max_bytes": PAGE_BYTES})
        is_within_stream = "next_by_subj" in request and start > 1
        if not stored and _says_nothing_left(end, is_within_stream):
            return values
        start = max(start, _last_of_page(stored, end) + 1)
        for msg in stored:
            _apply(values, msg)
        if (end.headers or {})["Nats-Num-Pending"] == "0":
            return values


async def _ask(client: Client, bucket: str, request: Mapping[str, Any]) -> tuple[list[Msg], Msg]:
    """Send one request; return the stored messages that answer it and the status that ends them."""
    inbox = client.new_inbox()
    stored: list[Msg] = []
    end: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

    async def receive(msg: Msg) -> None:
        if "Nats-Sequence" in (msg.headers or {}):
            stored.append(msg)
        elif not end.done():
            end.set_result(msg)

    async with _subscribed(client, inbox, receive):
        await client.publish(f"$JS.API.DIRECT.GET.KV_{bucket}", json.dumps(request).encode(), reply=inbox)
        return stored, await end


@contextlib.asynccontextmanager
async def _subscribed(client: Client, inbox: str, receive: Callable[[Msg], Awaitable[None]]) -> AsyncIterator[None]:
    subscription = await client.subscribe(inbox, cb=receive)
    try:
        yield
    finally:
        with contextlib.suppress(nats.errors.Error):  # a connection closed meanwhile must not hide a cancellation
            await subscription.unsubscribe()


def _says_nothing_left(end: Msg, is_within_stream: bool) -> bool:
    """Whether nothing is there; of a last message that has just expired the server says "Message Not Found"."""
    headers = end.headers or {}
    return headers.get("Status") == "404" and (is_within_stream or headers.get("Description") == "No Results")


def _last_of_page(stored: list[Msg], end: Msg) -> int:
    """Return the last sequence of a complete page, in which every message names the sequence before it; else raise."""
    status = (end.headers or {}).get("Status")
    if status == "413":
        raise _TooManyKeysError
    if status == "404":
        raise _IncompleteError
    if status != "204":
        raise nats.errors.Error(f"the server answers with status {status}")
    last = 0
    for msg in [*stored, end]:
        headers = msg.headers or {}
        if headers["Nats-Last-Sequence"] != str(last):
            raise _IncompleteError
        last = int(headers.get("Nats-Sequence", last))
    return last


def _apply(values: dict[str, bytes], msg: Msg) -> None:
    headers = msg.headers or {}
    key = headers["Nats-Subject"].split(".", 2)[2]
    values.pop(key, None)
    if headers.get("KV-Operation") not in ("DEL", "PURGE") and "Nats-Marker-Reason" not in headers:
        values[key] = msg.data
