"""Asking a gateway for its open requests, or an engine for its prefix cache; the answer comes in parts."""

import asyncio
from typing import Protocol, TypeVar

from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.base import Message
from sagellm_common.contracts.kv import SnapshotReply, SnapshotRequest
from sagellm_common.contracts.scheduling import OpenQuery, OpenReply, OpenRequest
from sagellm_common.errors import DeadlineExceeded, Internal

TIMEOUT_S = 2.0


class Part(Protocol):
    """A message that is part of an answer."""

    part: int
    last: bool


P = TypeVar("P", OpenReply, SnapshotReply)


async def ask_open(bus: Bus, gateway_id: str, scheduler_id: str) -> tuple[OpenRequest, ...]:
    """Return all open requests of a gateway.

    Raises DeadlineExceeded if the last part has not come in time, Internal if a part is missing.
    """
    query, subject = OpenQuery(scheduler_id=scheduler_id), bus.settings.subjects.gateway_open(gateway_id)
    parts = await _ask(bus, subject, query, OpenReply, f"the gateway {gateway_id}")
    return tuple(request for part in parts for request in part.requests)


async def ask_snapshot(bus: Bus, engine_id: str, scheduler_id: str) -> SnapshotReply:
    """Return all of an engine's prefix cache; raises as `ask_open` does."""
    query, subject = SnapshotRequest(scheduler_id=scheduler_id), bus.settings.subjects.engine_snapshot(engine_id)
    parts = await _ask(bus, subject, query, SnapshotReply, f"the engine {engine_id}")
    return parts[0].model_copy(update={"blocks": [block for part in parts for block in part.blocks]})


async def _ask(bus: Bus, subject: str, query: Message, cls: type[P], who: str) -> list[P]:
    parts: list[P] = []
    is_complete = asyncio.Event()

    def receive(reply: P, received: Received) -> None:
        parts.append(reply)
        if reply.last:
            is_complete.set()

    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, cls, receive)
    try:
        await bus.publish(subject, query, reply=inbox)
        await asyncio.wait_for(is_complete.wait(), TIMEOUT_S)
    except TimeoutError as error:
        raise DeadlineExceeded(f"{who} did not answer in time") from error
    finally:
        if bus.is_connected:
            await subscription.unsubscribe()
    if [part.part for part in parts] != list(range(len(parts))):
        raise Internal(f"{who} answered with parts missing")
    return parts
