"""One open generation: a bounded buffer of tokens between the bus and one client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.generate import Usage
from sagellm_common.errors import Cancelled, SageError
from sagellm_gateway.generation.api import Delta
from sagellm_gateway.generation.pipeline import ChoicePipeline

# Tokens that may wait for one client. What exceeds it stays with the engine and is asked for again once the client
# has read; a client that does not read for `slow_client_timeout_s` in that state loses its request.
BUFFER_TOKENS = 4096


class Owner(Protocol):
    """Who is told what happens on the client's side."""

    def stopped(self, request_id: str, choice: int) -> None:
        """A stop string came up."""

    def drained(self, request_id: str) -> None:
        """The buffer, once full, has room again."""

    def abandoned(self, request_id: str, error: SageError) -> None:
        """The client does not want the rest."""


class TokenStream:
    """Implements `Generation` for the client and `Sink` for the core; belongs to one event loop."""

    def __init__(
        self,
        *,
        request_id: str,
        model: str,
        created: int,
        prompt_tokens: int,
        pipelines: list[ChoicePipeline],
        owner: Owner,
        capacity: int = BUFFER_TOKENS,
    ) -> None:
        self.request_id = request_id
        self.model = model
        self.created = created
        self.prompt_tokens = prompt_tokens
        self._pipelines = pipelines
        self._open = len(pipelines)
        self._owner = owner
        self._capacity = capacity
        self._items: list[tuple[TokenItem, int]] = []
        self._waiting_tokens = 0
        self._was_full = False
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._error: SageError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.on_end: Callable[[], None] = _nothing

    # the core's side

    @property
    def is_full(self) -> bool:
        if self._waiting_tokens < self._capacity:
            return False
        self._was_full = True
        return True

    def put(self, item: TokenItem, skip: int) -> None:
        self._items.append((item, skip))
        self._waiting_tokens += len(item.token_ids) - skip
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, error: SageError) -> None:
        """End with an error, after what is in the buffer."""
        self._error = self._error or error
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # the client's side

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self._completion_tokens,
            cached_tokens=self._cached_tokens,
        )

    @property
    def error(self) -> SageError | None:
        """Why the request failed, if it has."""
        return self._error

    @property
    def is_over(self) -> bool:
        """Whether the client has got everything, or the error that ended it."""
        return self._open == 0 or (self._error is not None and not self._items)

    def __aiter__(self) -> AsyncIterator[list[Delta]]:
        return self

    async def __anext__(self) -> list[Delta]:
        while self._open:
            if self._items:
                deltas = self._take()
                if deltas:
                    return deltas
            elif self._error is not None:
                self.on_end()
                raise self._error
            else:
                await self._wait()
        self.on_end()
        raise StopAsyncIteration

    async def _wait(self) -> None:
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        except asyncio.CancelledError:
            self._abandon("the client went away")
            raise
        finally:
            self._waiter = None

    def _take(self) -> list[Delta]:
        items, self._items = self._items, []
        self._waiting_tokens = 0
        if self._was_full:
            self._was_full = False
            self._owner.drained(self.request_id)
        if len(items) == 1:
            delta = self._push(*items[0])
            return [delta] if delta is not None else []
        return [delta for pair in _merged(items, self._pipelines) if (delta := self._push(*pair)) is not None]

    def _push(self, item: TokenItem, skip: int) -> Delta | None:
        pipeline = self._pipelines[item.choice]
        if pipeline.finish is not None:  # a stop string ended it before the engine knew
            return None
        token_ids, logprobs = item.token_ids, item.logprobs
        if skip:
            token_ids, logprobs = token_ids[skip:], logprobs[skip:] if logprobs else None
        delta = pipeline.push(token_ids, logprobs, item.finish)
        self._completion_tokens += len(delta.token_ids)
        if item.cached_tokens:
            self._cached_tokens = max(self._cached_tokens, item.cached_tokens)
        if delta.finish_reason is not None:
            self._open -= 1
            if item.finish is None or len(delta.token_ids) < len(token_ids):
                self._owner.stopped(self.request_id, item.choice)
        return delta

    async def cancel(self, reason: str) -> None:
        self._abandon(reason)

    def _abandon(self, reason: str) -> None:
        if not self.is_over:
            error = Cancelled(reason)
            self._items.clear()
            self.fail(error)
            self._owner.abandoned(self.request_id, error)
        self.on_end()


def _merged(items: list[tuple[TokenItem, int]], pipelines: list[ChoicePipeline]) -> list[tuple[TokenItem, int]]:
    """Join the items of each choice, so that several tokens cost little more than one."""
    groups: dict[int, list[tuple[TokenItem, int]]] = {}
    for item, skip in items:
        groups.setdefault(item.choice, []).append((item, skip))
    merged: list[tuple[TokenItem, int]] = []
    for choice, group in groups.items():
        merged += [_joined(group)] if len(group) > 1 and pipelines[choice].is_plain else group
    return merged


def _joined(group: list[tuple[TokenItem, int]]) -> tuple[TokenItem, int]:
    (first, skip), last = group[0], group[-1][0]
    token_ids: list[int] = []
    for item, item_skip in group:
        token_ids += item.token_ids[item_skip:] if item_skip else item.token_ids
    cached = max(item.cached_tokens for item, _ in group)
    index = first.first_index + skip
    joined = TokenItem(first.request_id, first.epoch, first.choice, index, token_ids, None, last.finish, None, cached)
    return joined, 0


def _nothing() -> None:
    """Nobody waits for the end."""
