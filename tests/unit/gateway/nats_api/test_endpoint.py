"""What the endpoint takes in, before anything is submitted."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgpack
from nats.aio.client import Client
from nats.aio.msg import Msg

from sagellm_common.bus import Bus
from sagellm_common.contracts.generate import GenerateRequest
from sagellm_common.errors import Unavailable
from sagellm_gateway.generation.api import Gateway, Generation
from sagellm_gateway.nats_api.endpoint import NatsApi
from support.wait import eventually


class _Client:
    """Keeps what is published, by subject."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    async def publish(self, subject: str, data: bytes, **rest: Any) -> None:
        self.sent.append((subject, msgpack.unpackb(data)))


class _Gateway:
    """Keeps each request until the test lets it fail."""

    def __init__(self) -> None:
        self.held = 0
        self.release = asyncio.Event()

    async def submit(self, request: GenerateRequest) -> Generation:
        self.held += 1
        await self.release.wait()
        raise Unavailable("released")


def _endpoint(client: _Client, gateway: _Gateway, max_open: int) -> NatsApi:
    bus = SimpleNamespace(
        client=client, max_payload=10_000, is_connected=True, reconnects=0, new_inbox=lambda: "_INBOX.probes"
    )
    return NatsApi(cast(Bus, bus), cast(Gateway, gateway), max_open)


def _request(reply: str) -> Msg:
    data: bytes = msgpack.packb({"model": "m", "prompt": "once"})
    return Msg(_client=cast(Client, None), subject="generate", reply=reply, data=data)


async def test_no_more_requests_are_held_than_allowed() -> None:
    """What is too many is answered at once, with no task and nothing kept; when one ends, the next is taken."""
    client, gateway = _Client(), _Gateway()
    api = _endpoint(client, gateway, max_open=2)
    for number in range(5):
        await api._receive(_request(f"_INBOX.{number}"))
    assert [subject for subject, _ in client.sent] == ["_INBOX.2", "_INBOX.3", "_INBOX.4"]
    assert {reply["error"]["code"] for _, reply in client.sent} == {"resource_exhausted"}
    assert client.sent[0][1]["error"]["retry_after_s"] == 1.0
    await eventually(lambda: gateway.held == 2, what="the two that are held")
    gateway.release.set()
    await eventually(lambda: len(client.sent) == 5, what="the end of the two")
    await api._receive(_request("_INBOX.5"))
    await eventually(lambda: gateway.held == 3, what="the next request")
    await api.stop()
