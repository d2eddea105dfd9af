"""Ending tasks for certain."""

import asyncio
from typing import Any

AGAIN_S = 0.1


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended, whatever they return or raise.

    Once may not do: Python 3.11's `wait_for`, in which the NATS library waits, can swallow a cancellation, and a task
    that runs for ever would then be waited for as long.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
