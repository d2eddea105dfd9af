"""Waiting for an event instead of for a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable


async def eventually(condition: Callable[[], bool], timeout_s: float = 30.0, what: str = "the condition") -> None:
    """Return as soon as `condition()` holds; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        await asyncio.sleep(0.005)


async def eventually_async(
    condition: Callable[[], Awaitable[bool]], timeout_s: float = 30.0, what: str = "the condition"
) -> None:
    """Like `eventually`, for a condition that must be awaited."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_s} s"
        await asyncio.sleep(0.02)
