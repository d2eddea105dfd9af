"""The synchronous clients: the asynchronous ones, driven by an event loop in a thread of their own."""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, Unpack

from sagellm.client.base import AsyncClient
from sagellm.client.loop_thread import LoopThread
from sagellm.client.request import ChatMessages, GenerateOptions, Prompt
from sagellm.client.results import Chunk, Completion, Model
from sagellm.client.stream import AsyncStream


class Stream:
    """The chunks of one answer. Use it as `with client.stream(...) as stream: for chunk in stream: ...`.

    Leaving the block or `close()` ends it, and the server stops generating.
    """

    def __init__(self, loop: LoopThread, stream: AsyncStream) -> None:
        self._loop, self._stream = loop, stream

    @property
    def request_id(self) -> str | None:
        """The server's id of the request, as soon as the first reply is there."""
        return self._stream.request_id

    @property
    def so_far(self) -> Completion:
        """Everything that has been received."""
        return self._stream.so_far

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        chunk = self._loop.call(_next(self._stream))
        if chunk is None:
            raise StopIteration
        return chunk

    def completion(self) -> Completion:
        """Read to the end and return the whole answer."""
        return self._loop.call(self._stream.completion())

    def close(self) -> None:
        """Close it; if the answer has not ended, the request is cancelled."""
        self._loop.call(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


async def _next(stream: AsyncStream) -> Chunk | None:
    return await anext(stream, None)


class SyncClient:
    """Asks models and waits. Use it as `with ... as client`, or call `close()`."""

    def __init__(self, make: Callable[[], AsyncClient]) -> None:
        self._loop = LoopThread()
        self._client = self._loop.call(_made(make))

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Completion:
        """Continue `prompt`, a text or token ids, and return the whole answer."""
        return self._loop.call(self._client.generate(prompt, **options))

    def chat(self, messages: ChatMessages, **options: Unpack[GenerateOptions]) -> Completion:
        """Answer a chat, messages as OpenAI has them, and return the whole answer."""
        return self._loop.call(self._client.chat(messages, **options))

    def stream(
        self,
        prompt: Prompt | None = None,
        *,
        messages: ChatMessages | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Stream:
        """Continue `prompt` or answer `messages`, piece by piece as it is generated."""
        return Stream(self._loop, self._loop.call(self._client.stream(prompt, messages=messages, **options)))

    def models(self) -> list[Model]:
        """Return the models that can be asked at the moment."""
        return self._loop.call(self._client.models())

    def cancel(self, request_id: str) -> None:
        """Stop a running request."""
        self._loop.call(self._client.cancel(request_id))

    def close(self) -> None:
        """Close the connection and end the thread. Safe to call twice."""
        if not self._loop.is_closed:
            self._loop.call(self._client.aclose())
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


async def _made(make: Callable[[], AsyncClient]) -> AsyncClient:
    return make()


class NatsClient(SyncClient):
    """Asks models over NATS and waits; arguments as for AsyncNatsClient."""

    def __init__(
        self,
        url: str | None = None,
        *,
        deployment: str | None = None,
        timeout_s: float = 600.0,
        silence_s: float = 60.0,
    ) -> None:
        from sagellm.client.nats_async import AsyncNatsClient  # only this client needs nats

        super().__init__(lambda: AsyncNatsClient(url, deployment=deployment, timeout_s=timeout_s, silence_s=silence_s))


class HttpClient(SyncClient):
    """Asks models over HTTP and waits; arguments as for AsyncHttpClient."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        silence_s: float = 60.0,
    ) -> None:
        from sagellm.client.http_async import AsyncHttpClient  # only this client needs httpx

        super().__init__(lambda: AsyncHttpClient(url, api_key=api_key, timeout_s=timeout_s, silence_s=silence_s))
