"""A streamed answer: iterate it, or wait for the whole; closing it early cancels the request."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol

from sagellm.client.gather import Gatherer
from sagellm.client.results import Chunk, Completion
from sagellm.client.spans import RequestSpan
from sagellm_common.errors import DeadlineExceeded


class Source(Protocol):
    """Where the chunks of one request come from."""

    @property
    def request_id(self) -> str | None:
        """The server's id of the request, as soon as it is known."""

    async def next(self) -> Chunk | None:
        """Return the next chunk, None after the last; raises what the server or the way to it reports."""

    async def close(self) -> None:
        """Free what it holds; cancels the request if it has not ended. Safe to call twice."""


class AsyncStream:
    """The chunks of one answer. Use it as `async with client.stream(...) as stream: async for chunk in stream: ...`.

    Leaving the block, `aclose()` or a cancelled task closes it, and the server stops generating.
    """

    def __init__(self, source: Source, span: RequestSpan, *, is_chat: bool, timeout_s: float | None) -> None:
        self._source, self._span = source, span
        self._gatherer = Gatherer(is_chat)
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        self._closed = False

    @property
    def request_id(self) -> str | None:
        """The server's id of the request, as soon as the first reply is there; `sagellm explain` takes it."""
        return self._source.request_id

    @property
    def so_far(self) -> Completion:
        """Everything that has been received."""
        return self._gatherer.build()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        if self._closed:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout_at(self._deadline):
                chunk = await self._source.next()
        except TimeoutError:
            error = DeadlineExceeded(f"the answer took longer than {self._timeout_s:g} s; raise timeout_s")
            await self._close(error)
            raise error from None
        except BaseException as error:
            await self._close(error)
            raise
        if chunk is None:
            await self._close(None)
            raise StopAsyncIteration
        self._gatherer.add(chunk)
        return chunk

    async def completion(self) -> Completion:
        """Read to the end and return the whole answer."""
        async with self:
            async for _ in self:
                continue
        return self.so_far

    async def aclose(self) -> None:
        """Close it; if the answer has not ended, the request is cancelled."""
        await self._close(None)

    async def _close(self, error: BaseException | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._span.end(self.request_id, self.so_far.usage, error)
        await asyncio.shield(self._source.close())

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close(error)
