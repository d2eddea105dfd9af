"""Asking a gateway for its open requests; the answer comes in parts."""

import asyncio

from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.scheduling import OpenQuery, OpenReply, OpenRequest
from sagellm_common.errors import DeadlineExceeded, Internal

TIMEOUT_S = 2.0


async def ask_open(bus: Bus, gateway_id: str, scheduler_id: str) -> tuple[OpenRequest, ...]:
    """Return all open requests of a gateway.

    Raises DeadlineExceeded if the last part has not come in time, Internal if a part is missing.
    """
    parts: list[OpenReply] = []
    is_complete = asyncio.Event()

    def receive(reply: OpenReply, received: Received) -> None:
        parts.append(reply)
        if reply.last:
            is_complete.set()

    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, OpenReply, receive)
    try:
        query = OpenQuery(scheduler_id=scheduler_id)
        await bus.publish(bus.settings.subjects.gateway_open(gateway_id), query, reply=inbox)
        await asyncio.wait_for(is_complete.wait(), TIMEOUT_S)
    except TimeoutError as error:
        raise DeadlineExceeded(f"the gateway {gateway_id} did not tell its open requests in time") from error
    finally:
        if bus.is_connected:
            await subscription.unsubscribe()
    if [part.part for part in parts] != list(range(len(parts))):
        raise Internal(f"the gateway {gateway_id} told its open requests with parts missing")
    return tuple(request for part in parts for request in part.requests)
