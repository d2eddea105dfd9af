"""Clients that go away or read slowly."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from sagellm_gateway.generation.api import Delta
from support.fake_gateway import FakeGateway, Step, tokens
from support.wait import eventually

TIMEOUT_S = 5.0


def raw_request(stream: bool) -> bytes:
    body = json.dumps({"prompt": "hi", "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: test\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@asynccontextmanager
async def connection(url: str, receive_buffer: int | None = None) -> AsyncIterator[socket.socket]:
    parts = urlsplit(url)
    with socket.socket() as opened:
        if receive_buffer is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, (parts.hostname, parts.port))
        yield opened


async def send(opened: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(opened, data)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_queued_is_cancelled(url: str, gateway: FakeGateway, stream: bool) -> None:
    """A disconnect during submission cancels the submission."""
    gateway.queue = asyncio.Event()
    async with connection(url) as opened:
        await send(opened, raw_request(stream))
        await asyncio.wait_for(gateway.submitting.wait(), TIMEOUT_S)
    await asyncio.wait_for(gateway.submit_cancelled.wait(), TIMEOUT_S)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("first", [[], [[Delta(0, "a", [1])]]])
async def test_a_client_that_leaves_while_waiting_is_cancelled(
    url: str, gateway: FakeGateway, stream: bool, first: list[Step]
) -> None:
    """A disconnect before or after the first token, streaming or not, cancels the generation at once."""
    gateway.scripts = [[*first, asyncio.Event()]]
    async with connection(url) as opened:
        await send(opened, raw_request(stream))
        await eventually(lambda: bool(gateway.generations) and gateway.generations[0].num_given == len(first))
    await asyncio.wait_for(gateway.generations[0].cancelled.wait(), TIMEOUT_S)


async def test_a_client_that_leaves_cancels_every_prompt_of_its_list(url: str, gateway: FakeGateway) -> None:
    """A disconnect cancels all generations of a list of prompts."""
    gateway.scripts = [[asyncio.Event()]]
    async with httpx.AsyncClient(base_url=url) as http:
        task = asyncio.create_task(http.post("/v1/completions", json={"prompt": ["a", "b"]}))
        await eventually(lambda: len(gateway.generations) == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for generation in gateway.generations:
        await asyncio.wait_for(generation.cancelled.wait(), TIMEOUT_S)


async def test_a_slow_client_stalls_only_itself(url: str, http: httpx.AsyncClient, gateway: FakeGateway) -> None:
    """A client that reads nothing stops its own generation's deltas from being taken; others are served meanwhile."""
    num_steps, text = 4000, "x" * 4096
    slow: list[Step] = [[Delta(0, text, [1])] for _ in range(num_steps)]
    gateway.scripts = [slow, tokens("fast")]
    async with connection(url, receive_buffer=4096) as opened:
        await send(opened, raw_request(stream=True))
        await eventually(lambda: bool(gateway.generations) and gateway.generations[0].num_given > 10)
        reply = await http.post("/v1/completions", json={"prompt": "hi"})
        assert reply.json()["choices"][0]["text"] == "fast"
        assert gateway.generations[0].num_given < num_steps
        assert not gateway.generations[0].cancelled.is_set()
    await asyncio.wait_for(gateway.generations[0].cancelled.wait(), TIMEOUT_S)


async def test_an_answer_that_was_read_is_not_cancelled(http: httpx.AsyncClient, gateway: FakeGateway) -> None:
    """Neither a whole nor a streamed answer is cancelled by its own end, also when the connection is used again."""
    for stream in (False, True, False, True):
        assert (await http.post("/v1/completions", json={"prompt": "hi", "stream": stream})).status_code == 200
    assert not any(generation.cancelled.is_set() for generation in gateway.generations)


async def test_half_a_request_leaves_nothing_behind(url: str, http: httpx.AsyncClient, gateway: FakeGateway) -> None:
    """A client that leaves in the middle of its body submits nothing, and the server goes on."""
    async with connection(url) as opened:
        await send(opened, raw_request(stream=False)[:-5])
    assert (await http.post("/v1/completions", json={"prompt": "hi"})).status_code == 200
    assert len(gateway.requests) == 1
