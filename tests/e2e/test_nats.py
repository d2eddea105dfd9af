"""The stack with the built-in model, spoken to by a person with nothing but a NATS client."""

import asyncio
import json
from typing import Any

import nats
from nats.aio.client import Client

from sagellm_common.settings import BusSettings
from support.stack import LocalStack


async def _replies(client: Client, subject: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Publish JSON with a reply subject and read until the reply marked final."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await client.publish(subject, json.dumps(body).encode(), reply=inbox, headers={"Content-Type": "application/json"})
    replies: list[dict[str, Any]] = []
    while not (replies and replies[-1].get("final")):
        replies.append(json.loads((await subscription.next_msg(timeout=30)).data))
    await subscription.unsubscribe()
    return replies


async def test_a_published_request_streams_its_answer_into_the_inbox(
    stack: LocalStack, e2e_settings: BusSettings
) -> None:
    """Publish JSON, read numbered JSON replies: the text is the built-in model's, the last one has the usage."""
    client = await nats.connect(e2e_settings.nats_url)
    body = {
        "messages": [{"role": "user", "content": "Tell me a story about a boat and a dog."}],
        "sampling": {"temperature": 0, "max_tokens": 120},
    }
    replies = await _replies(client, e2e_settings.subjects.generate, body)
    text = "".join(reply.get("text", "") for reply in replies).lower()
    assert [reply["seq"] for reply in replies] == list(range(len(replies)))
    assert len(replies) > 3
    assert "boat" in text
    assert "dog" in text
    assert replies[-1]["usage"]["completion_tokens"] > 10
    await client.close()


async def test_a_wrong_request_gets_a_typed_error_and_the_next_is_served(
    stack: LocalStack, e2e_settings: BusSettings
) -> None:
    """Bad parameters on NATS end in one final reply with a code; the service goes on."""
    client = await nats.connect(e2e_settings.nats_url)
    subject = e2e_settings.subjects.generate
    [bad] = await _replies(client, subject, {"prompt": "hi", "sampling": {"temperature": -1}})
    assert bad["error"]["code"] == "invalid_argument"
    assert bad["error"]["param"] == "sampling.temperature"
    good = await _replies(client, subject, {"prompt": "Once", "sampling": {"max_tokens": 3}})
    assert good[-1]["usage"]["completion_tokens"] == 3
    await client.close()


async def test_every_service_answers_discovery(stack: LocalStack, e2e_settings: BusSettings) -> None:
    """`$SRV.PING`, `INFO` and `STATS` answer for all four services."""
    client = await nats.connect(e2e_settings.nats_url)
    for service in ("gateway", "scheduler", "registry", "engine"):
        for verb in ("PING", "INFO", "STATS"):
            msg = await client.request(f"$SRV.{verb}.sagellm-{service}", b"", timeout=5)
            assert json.loads(msg.data)["name"] == f"sagellm-{service}"
    await client.close()


async def test_a_caller_that_vanishes_is_noticed_within_two_seconds(
    stack: LocalStack, e2e_settings: BusSettings
) -> None:
    """When the inbox has no listener any more, the request is cancelled and its event says so within 2 s."""
    client, observer = await nats.connect(e2e_settings.nats_url), await nats.connect(e2e_settings.nats_url)
    cancelled = await observer.subscribe(e2e_settings.subjects.request_event("cancelled"))
    await observer.flush()
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    body = {"prompt": "Once upon a time", "sampling": {"max_tokens": 1900, "ignore_eos": True, "n": 16}}
    await client.publish(e2e_settings.subjects.generate, json.dumps(body).encode(), reply=inbox)
    await subscription.next_msg(timeout=30)
    gone_at = asyncio.get_running_loop().time()
    await client.close()
    await cancelled.next_msg(timeout=30)
    assert asyncio.get_running_loop().time() - gone_at < 2.0
    await observer.close()
