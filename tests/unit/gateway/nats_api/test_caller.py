"""Replies that the bus does not take."""

from types import SimpleNamespace
from typing import Any, cast

import msgpack
import nats.errors
import pytest

from sagellm_common.bus import Bus
from sagellm_common.codec import MSGPACK
from sagellm_common.errors import Internal, PayloadTooLarge, Unavailable
from sagellm_gateway.generation.api import Delta, Generation
from sagellm_gateway.nats_api.caller import Caller

GENERATION = cast(Generation, SimpleNamespace(request_id="r1", model="m", usage=None))


class _Client:
    """Keeps what is published, or refuses it."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.sent: list[dict[str, Any]] = []

    async def publish(self, subject: str, data: bytes, **rest: Any) -> None:
        if self.fault is not None:
            raise self.fault
        self.sent.append(msgpack.unpackb(data))


def _caller(client: _Client) -> Caller:
    bus = SimpleNamespace(client=client, max_payload=400, is_connected=True, reconnects=0)
    return Caller(cast(Bus, bus), "inbox", MSGPACK, "probe")


@pytest.mark.parametrize("fault", [nats.errors.OutboundBufferLimitError(), nats.errors.ConnectionClosedError()])
async def test_a_bus_that_takes_no_reply_is_unavailable(fault: Exception) -> None:
    """The library's own errors become the typed one: they end one request, not the probing of all callers."""
    with pytest.raises(Unavailable):
        await _caller(_Client(fault)).failed(Internal("x"))


async def test_a_reply_that_does_not_fit_takes_no_number() -> None:
    """After a reply that was too large the numbers go on without a gap, so that the error is the next one."""
    client = _Client()
    caller = _caller(client)
    await caller.accepted(GENERATION, with_token_ids=False)
    with pytest.raises(PayloadTooLarge):
        await caller.deltas(GENERATION, [Delta(0, "x" * 500, [1])])
    await caller.failed(PayloadTooLarge("too large"))
    assert [reply["seq"] for reply in client.sent] == [0, 1]
