"""Making anew, after a reconnect, what a server can have lost with its storage."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from sagellm_common.bus.connection import Bus
from sagellm_common.errors import SageError

log = structlog.get_logger(__name__)
Restore = Callable[[], Awaitable[None]]
ATTEMPTS = 8
FIRST_PAUSE_S = 0.1


def after_reconnect(bus: Bus, what: str, restore: Restore) -> None:
    """Call `restore` after every reconnect of `bus`; `what` names in the log what it restores."""
    bus.on_reconnect(lambda: start_restoring(bus, what, restore))


def start_restoring(bus: Bus, what: str, restore: Restore) -> None:
    """Call `restore` in a task of the bus, up to 8 times in 13 s: JetStream is ready later than its server."""
    bus.spawn(_restore(what, restore))


async def _restore(what: str, restore: Restore) -> None:
    for attempt in range(ATTEMPTS):
        try:
            await restore()
            return
        except SageError as error:
            log.warning("not_restored_yet", what=what, error=error.message)
        await asyncio.sleep(FIRST_PAUSE_S * 2**attempt)
    log.error("not_restored", what=what, attempts=ATTEMPTS)
