"""What both asynchronous clients share: the methods, on top of one way to open a stream."""

import abc
from types import TracebackType
from typing import Self, Unpack

from sagellm.client.request import ChatMessages, GenerateOptions, Prompt, build_request
from sagellm.client.results import Completion, Model
from sagellm.client.spans import RequestSpan
from sagellm.client.stream import AsyncStream, Source
from sagellm_common.contracts.generate import GenerateRequest
from sagellm_common.errors import SageError


class AsyncClient(abc.ABC):
    """Asks models: whole answers, streams, chats. Use it as `async with ... as client`, or call `aclose()`."""

    transport = "tcp"

    def __init__(self, *, timeout_s: float) -> None:
        self.timeout_s = timeout_s

    @abc.abstractmethod
    async def _open(self, request: GenerateRequest, span: RequestSpan, *, stream: bool) -> Source:
        """Send the request; raises what the server or the way to it reports."""

    @abc.abstractmethod
    async def models(self) -> list[Model]:
        """Return the models that can be asked at the moment."""

    @abc.abstractmethod
    async def cancel(self, request_id: str) -> None:
        """Stop a running request."""

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Close the connection; open streams end with it. Safe to call twice."""

    async def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Completion:
        """Continue `prompt`, a text or token ids, and return the whole answer."""
        stream = await self._start(prompt, None, options, stream=False)
        return await stream.completion()

    async def chat(self, messages: ChatMessages, **options: Unpack[GenerateOptions]) -> Completion:
        """Answer a chat, messages as OpenAI has them, and return the whole answer."""
        stream = await self._start(None, messages, options, stream=False)
        return await stream.completion()

    async def stream(
        self,
        prompt: Prompt | None = None,
        *,
        messages: ChatMessages | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncStream:
        """Continue `prompt` or answer `messages`, piece by piece as it is generated."""
        return await self._start(prompt, messages, options, stream=True)

    async def _start(
        self, prompt: Prompt | None, messages: ChatMessages | None, options: GenerateOptions, *, stream: bool
    ) -> AsyncStream:
        request, timeout_s = build_request(prompt, messages, options)
        span = RequestSpan(request, self.transport)
        try:
            source = await self._open(request, span, stream=stream)
        except SageError as error:
            span.end(None, None, error)
            raise
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        return AsyncStream(source, span, is_chat=request.messages is not None, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
