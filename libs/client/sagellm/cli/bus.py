"""The bus for commands: one request, one reply, with errors that say what to do."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sagellm.cli.console import quiet_logs
from sagellm.client.where import nats_url
from sagellm_common.bus import Bus
from sagellm_common.settings import BusSettings

T = TypeVar("T")


def with_bus(url: str | None, work: Callable[[Bus], Awaitable[T]]) -> T:
    """Connect, run `work` and disconnect; raises Unavailable within seconds if no server answers."""
    return asyncio.run(_with_bus(url, work))


async def _with_bus(url: str | None, work: Callable[[Bus], Awaitable[T]]) -> T:
    quiet_logs()
    bus = await Bus.connect(BusSettings(nats_url=nats_url(url), connect_timeout_s=3.0), "sagellm-cli")
    try:
        return await work(bus)
    finally:
        await bus.close()
