"""Bad input over HTTP and NATS: each a clear typed error, and the service goes on."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import nats
import pytest

from sagellm_common.bus import Bus
from support.stack import LocalStack

GOOD = {"model": "mock-model", "prompt": [11, 12, 13], "max_tokens": 3, "temperature": 0}

BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "malformed JSON": (b'{"model": "mock-model", "prompt": ', 400),
    "no object": (b"[1, 2]", 400),
    "empty body": (b"", 400),
    "invalid UTF-8": (b'{"model": "mock-model", "prompt": "\xff\xfe"}', 400),
    "unknown model": (json.dumps({**GOOD, "model": "no/such.model"}).encode(), 404),
    "no prompt": (json.dumps({"model": "mock-model"}).encode(), 400),
    "empty prompt": (json.dumps({**GOOD, "prompt": ""}).encode(), 400),
    "empty token list": (json.dumps({**GOOD, "prompt": []}).encode(), 400),
    "negative token ids": (json.dumps({**GOOD, "prompt": [-1, 5]}).encode(), 400),
    "negative max_tokens": (json.dumps({**GOOD, "max_tokens": -1}).encode(), 400),
    "zero max_tokens": (json.dumps({**GOOD, "max_tokens": 0}).encode(), 400),
    "temperature below zero": (json.dumps({**GOOD, "temperature": -0.1}).encode(), 400),
    "top_p above one": (json.dumps({**GOOD, "top_p": 1.1}).encode(), 400),
    "absurd n": (json.dumps({**GOOD, "n": 10**9}).encode(), 400),
    "wrong type": (json.dumps({**GOOD, "max_tokens": "many"}).encode(), 400),
    "thousands of stops": (json.dumps({**GOOD, "stop": ["x"] * 5000}).encode(), 400),
    "over the context": (json.dumps({**GOOD, "prompt": [11] * 300_000}).encode(), 400),
    "over max_payload": (json.dumps({**GOOD, "prompt": "x" * (9 * 1024 * 1024)}).encode(), 413),
}


@pytest.fixture
async def client(broken_stack: LocalStack) -> AsyncIterator[httpx.AsyncClient]:
    broken_stack.start_rest()
    broken_stack.start_scheduler("s1")
    broken_stack.start_engine("e1", mock_step_ms=0)
    await broken_stack.ready()
    async with httpx.AsyncClient(base_url=broken_stack.url, timeout=30) as opened:
        yield opened


async def test_bad_bodies_get_a_typed_error_and_the_next_request_is_served(client: httpx.AsyncClient) -> None:
    """Every kind of bad body is refused with its status and OpenAI's error shape, without ending the service."""
    for name, (body, status) in BAD_BODIES.items():
        reply = await client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
        assert reply.status_code == status, f"{name}: {reply.status_code} {reply.text[:200]}"
        error = reply.json()["error"]
        assert error["message"], name
        assert error["code"], name
        good = await client.post("/v1/completions", json=GOOD)
        assert good.status_code == 200, f"after {name}: {good.text}"


async def test_unknown_fields_are_ignored(client: httpx.AsyncClient) -> None:
    """A field that this version does not know does not fail a request."""
    reply = await client.post("/v1/completions", json={**GOOD, "brand_new_option": {"a": 1}})
    assert reply.status_code == 200


async def test_two_requests_with_one_id_are_both_served(client: httpx.AsyncClient, bus: Bus) -> None:
    """A client's own id is an alias: two requests that share it both get their answer, under ids of their own."""
    plain = await nats.connect(bus.settings.nats_url)
    body = {"prompt": [11, 12], "sampling": {"max_tokens": 2}, "client_request_id": "same"}
    ids = {(await _final(plain, bus, body))["request_id"] for _ in range(2)}
    assert len(ids) == 2
    await plain.close()


async def test_malformed_messages_on_the_bus_end_in_typed_errors(client: httpx.AsyncClient, bus: Bus) -> None:
    """Nonsense on `generate` is answered with one final error, and the next request is served."""
    plain = await nats.connect(bus.settings.nats_url)
    for data in (b"\xc1\x00", b"{", b"[]", b"\x93\x01\x02\x03", b"\xff" * 10):
        reply = await plain.request(bus.settings.subjects.generate, data, timeout=5)
        assert reply.headers is not None
        assert reply.headers["Nats-Service-Error-Code"] == "400"
    body: dict[str, Any] = {"prompt": [11, 12], "sampling": {"max_tokens": 2}}
    assert (await _final(plain, bus, body))["usage"]["completion_tokens"] == 2
    await plain.close()


async def _final(client: nats.aio.client.Client, bus: Bus, body: dict[str, Any]) -> dict[str, Any]:
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await client.publish(bus.settings.subjects.generate, json.dumps(body).encode(), reply=inbox)
    while True:
        reply: dict[str, Any] = json.loads((await subscription.next_msg(timeout=30)).data)
        if reply.get("final"):
            await subscription.unsubscribe()
            return reply
