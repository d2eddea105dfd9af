"""Several prompts in one HTTP request: their generations, seen as one."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from sagellm_common.contracts.generate import GenerateRequest, Usage
from sagellm_gateway.generation.api import Delta, Gateway, Generation


async def submit_all(gateway: Gateway, requests: list[GenerateRequest]) -> Generation:
    """Submit every request; if one is refused, the others are cancelled and its error is raised."""
    if len(requests) == 1:
        return await gateway.submit(requests[0])
    tasks = [asyncio.create_task(gateway.submit(request)) for request in requests]
    try:
        return Batch(await asyncio.gather(*tasks), requests[0].sampling.n)
    except BaseException:
        await _give_up(tasks)
        raise


async def _give_up(tasks: list[asyncio.Task[Generation]]) -> None:
    """Cancel what is being submitted, and what has been."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(result, BaseException):
            await result.cancel("another prompt of the same HTTP request was not accepted")


class Batch:
    """A `Generation` of several; choice i × n + j is the j-th of generation i. It goes by the first one's id."""

    def __init__(self, generations: list[Generation], num_choices: int) -> None:
        self._generations = generations
        self._num_choices = num_choices
        self._waiting: dict[asyncio.Task[list[Delta] | None], int] = {}
        self._iterators = [aiter(generation) for generation in generations]
        self._is_begun = False
        self.request_id = generations[0].request_id
        self.model = generations[0].model
        self.created = generations[0].created
        self.prompt_tokens = sum(generation.prompt_tokens for generation in generations)

    @property
    def usage(self) -> Usage:
        parts = [generation.usage for generation in self._generations]
        return Usage(
            prompt_tokens=sum(part.prompt_tokens for part in parts),
            completion_tokens=sum(part.completion_tokens for part in parts),
            cached_tokens=sum(part.cached_tokens for part in parts),
        )

    def __aiter__(self) -> AsyncIterator[list[Delta]]:
        return self

    async def __anext__(self) -> list[Delta]:
        if not self._is_begun:
            self._is_begun = True
            for index in range(len(self._generations)):
                self._wait_for(index)
        while self._waiting:
            done, _ = await asyncio.wait(self._waiting, return_when=asyncio.FIRST_COMPLETED)
            deltas = [delta for task in done for delta in self._take(task)]
            if deltas:
                return deltas
        raise StopAsyncIteration

    async def cancel(self, reason: str) -> None:
        tasks, self._waiting = list(self._waiting), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for generation in self._generations:
            await generation.cancel(reason)

    def _wait_for(self, index: int) -> None:
        self._waiting[asyncio.create_task(_next(self._iterators[index]))] = index

    def _take(self, task: asyncio.Task[list[Delta] | None]) -> list[Delta]:
        index = self._waiting.pop(task)
        deltas = task.result()
        if deltas is None:
            return []
        self._wait_for(index)
        first = index * self._num_choices
        return [replace(delta, choice=first + delta.choice) for delta in deltas]


async def _next(iterator: AsyncIterator[list[Delta]]) -> list[Delta] | None:
    """The next deltas, or None after the end."""
    return await anext(iterator, None)
