"""The asynchronous client over HTTP, for any gateway that speaks OpenAI's API."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx

from sagellm.client.base import AsyncClient
from sagellm.client.request import http_request
from sagellm.client.results import Chunk, ChunkChoice, Completion, Model
from sagellm.client.spans import RequestSpan
from sagellm.client.sse import SseReader, error_of, parse
from sagellm.client.where import http_url
from sagellm_common.contracts.generate import GenerateRequest
from sagellm_common.errors import DeadlineExceeded, NotFound, Unavailable


class AsyncHttpClient(AsyncClient):
    """Asks models over HTTP.

    `url` is by default SAGELLM_URL, else that of the stack that `sagellm up` or `serve` runs here. `timeout_s` limits
    a whole request, `silence_s` the time without any byte.
    """

    transport = "tcp"

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        silence_s: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(timeout_s=timeout_s)
        self.url = http_url(url)
        self._http = httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(silence_s, connect=10.0, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            transport=transport,
        )
        self._open_streams: dict[str, HttpSource] = {}

    async def _open(self, request: GenerateRequest, span: RequestSpan, *, stream: bool) -> "HttpSource":
        path, body = http_request(request, stream=stream)
        outgoing = self._http.build_request("POST", path, json=body, headers=span.headers())
        with _faults(self.url):
            response = await self._http.send(outgoing, stream=True)
            if response.status_code >= 400:
                raise await _refusal(response)
        return HttpSource(self.url, response, self._open_streams, stream=stream)

    async def models(self) -> list[Model]:
        """Return the models that the gateway offers."""
        with _faults(self.url):
            response = await self._http.get("/v1/models")
            if response.status_code >= 400:
                raise await _refusal(response)
        return [Model.model_validate(model) for model in response.json()["data"]]

    async def cancel(self, request_id: str) -> None:
        """Stop a stream of this client by closing its connection; raises NotFound if it has none of this id."""
        source = self._open_streams.get(request_id)
        if source is None:
            raise NotFound(f"this client has no open stream {request_id}; over NATS any request can be cancelled")
        await source.close()

    async def aclose(self) -> None:
        """Close all connections; the gateway cancels what was open."""
        for source in list(self._open_streams.values()):
            await source.close()
        await self._http.aclose()


class HttpSource:
    """The chunks of one response; a response that is no stream is one chunk."""

    def __init__(
        self, url: str, response: httpx.Response, open_streams: "dict[str, HttpSource]", *, stream: bool
    ) -> None:
        self._url, self._response, self._stream = url, response, stream
        self._open_streams = open_streams
        self._lines: AsyncIterator[str] = response.aiter_lines()
        self._reader = SseReader()

    @property
    def request_id(self) -> str | None:
        return self._reader.request_id

    async def next(self) -> Chunk | None:
        if self._reader.done:
            return None
        with _faults(self._url):
            return await (self._next_event() if self._stream else self._whole())

    async def _next_event(self) -> Chunk | None:
        async for line in self._lines:
            chunk = self._reader.take(line)
            if chunk is not None:
                self._open_streams.setdefault(chunk.id, self)
                return chunk
            if self._reader.done:
                return None
        self._reader.ended()
        return None

    async def _whole(self) -> Chunk:
        completion = parse(Completion, await self._response.aread())
        self._reader.done, self._reader.request_id = True, completion.id
        return _as_chunk(completion)

    async def close(self) -> None:
        """Close the response; before its end that closes the connection, which cancels the request."""
        if self.request_id is not None:
            self._open_streams.pop(self.request_id, None)
        await self._response.aclose()


def _as_chunk(completion: Completion) -> Chunk:
    choices = [
        ChunkChoice(
            index=choice.index,
            delta=choice.message,
            text=None if choice.message else choice.text,
            finish_reason=choice.finish_reason,
            logprobs=choice.logprobs,
            token_ids=choice.token_ids,
        )
        for choice in completion.choices
    ]
    kept = completion.model_dump(include={"id", "model", "object", "created"})
    return Chunk(**kept, choices=choices, usage=completion.usage)


async def _refusal(response: httpx.Response) -> Exception:
    await response.aread()
    try:
        body = response.json()
    except ValueError:
        body = None
    await response.aclose()
    return error_of(response.status_code, body, response.headers)


@contextmanager
def _faults(url: str) -> Iterator[None]:
    """Turn httpx's exceptions into ours."""
    try:
        yield
    except httpx.ConnectError as error:
        raise Unavailable(f"nothing answers at {url}: start it with `sagellm up`, or name another URL") from error
    except httpx.TimeoutException as error:
        raise DeadlineExceeded(f"{url} has been silent for too long") from error
    except (httpx.TransportError, httpx.StreamError) as error:
        raise Unavailable(f"the connection to {url} broke: {type(error).__name__}") from error
    except httpx.InvalidURL as error:
        raise Unavailable(f"{url} is no URL: {error}") from error
