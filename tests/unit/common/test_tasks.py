"""Ending tasks."""

import asyncio

from sagellm_common import tasks


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    """A loop that loses cancellations ends all the same; one that fails and one that is done do no harm."""
    cancellations = 0

    async def stubborn() -> None:
        nonlocal cancellations
        while cancellations < 3:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancellations += 1

    async def failing() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError

    async def done() -> None:
        """End at once."""

    made = [asyncio.create_task(work()) for work in (stubborn, failing, done)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await tasks.end(*made)
    assert cancellations == 3
    assert all(task.done() for task in made)


async def test_ending_nothing_returns() -> None:
    """Without tasks there is nothing to wait for."""
    await tasks.end()
