"""The HTTP clients against a server made of a function."""

import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from sagellm.client.http_async import AsyncHttpClient
from sagellm_common.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SageError,
    Unavailable,
)


def client_of(handler: Callable[[httpx.Request], httpx.Response]) -> AsyncHttpClient:
    return AsyncHttpClient("http://test", transport=httpx.MockTransport(handler))


def event(text: str, **choice: object) -> str:
    body = {"id": "cmpl-1", "model": "m", "choices": [{"index": 0, "text": text, **choice}]}
    return f"data: {json.dumps(body)}\n\n"


class Events(httpx.AsyncByteStream):
    """A response body in pieces; remembers whether it was closed before its end."""

    def __init__(self, *events: str) -> None:
        self.events, self.closed, self.sent = events, False, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for each in self.events:
            self.sent += 1
            yield each.encode()

    async def aclose(self) -> None:
        self.closed = True


async def test_a_stream_gives_chunks_and_the_whole() -> None:
    """Chunks come one by one; afterwards the whole answer with its usage is there."""
    usage = {"id": "cmpl-1", "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 2}}
    body = Events(event("a"), ": comment\n\n", event("b", finish_reason="stop"), f"data: {json.dumps(usage)}\n\n")
    body.events = (*body.events, "data: [DONE]\n\n")
    async with client_of(lambda request: httpx.Response(200, stream=body)) as client:
        async with await client.stream("x") as stream:
            assert [chunk.text async for chunk in stream] == ["a", "b", ""]
        whole = stream.so_far
    assert (whole.text, whole.choices[0].finish_reason, stream.request_id) == ("ab", "stop", "cmpl-1")
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 2


async def test_a_stream_without_its_end_is_an_error() -> None:
    """A connection that ends before `[DONE]` raises Unavailable: the text is not whole."""
    body = Events(event("a"))
    async with client_of(lambda request: httpx.Response(200, stream=body)) as client:
        with pytest.raises(Unavailable, match="before the answer was complete"):
            await (await client.stream("x")).completion()


async def test_leaving_a_stream_closes_the_connection() -> None:
    """A stream that is left early closes its response, which is how HTTP cancels."""
    body = Events(*[event("a")] * 100)
    async with client_of(lambda request: httpx.Response(200, stream=body)) as client:
        async with await client.stream("x") as stream:
            await anext(stream)
        assert body.closed
        assert body.sent < 100


async def test_cancel_closes_the_stream_of_that_id() -> None:
    """`cancel` ends an open stream of this client; an unknown id raises NotFound."""
    body = Events(*[event("a")] * 100)
    async with client_of(lambda request: httpx.Response(200, stream=body)) as client:
        stream = await client.stream("x")
        await anext(stream)
        with pytest.raises(NotFound):
            await client.cancel("other")
        await client.cancel("cmpl-1")
        assert body.closed
        await stream.aclose()


async def test_an_answer_that_is_no_stream() -> None:
    """`chat` asks for a whole answer and returns message, text and usage."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["stream"] is False
        message = {"role": "assistant", "content": "hello"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx.Response(200, json={"id": "c", "model": "m", "object": "chat.completion", "choices": [choice]})

    async with client_of(answer) as client:
        completion = await client.chat([{"role": "user", "content": "hi"}])
    assert completion.text == "hello"
    assert completion.choices[0].message is not None


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"code": "invalid_argument", "message": "no", "param": "n"}}, InvalidArgument),
        (429, {"error": {"message": "full", "type": "resource_exhausted"}}, ResourceExhausted),
        (404, {"detail": "?"}, NotFound),
        (499, None, Cancelled),
        (503, {"error": "not a dict"}, Unavailable),
        (418, {"error": {"message": "tea"}}, Internal),
    ],
)
async def test_refusals_are_typed(status: int, body: object, kind: type[SageError]) -> None:
    """The error's code decides its type, else the HTTP status; a body that is no JSON does no harm."""
    response = httpx.Response(status, json=body, headers={"retry-after": "7"})
    async with client_of(lambda request: response) as client:
        with pytest.raises(kind) as caught:
            await client.generate("x")
    assert caught.value.retry_after_s == 7.0


async def test_an_error_inside_a_stream_is_raised() -> None:
    """An error event ends the stream with the error that it names."""
    error = {"error": {"code": "unavailable", "message": "the engine is gone"}}
    body = Events(event("a"), f"data: {json.dumps(error)}\n\n")
    async with client_of(lambda request: httpx.Response(200, stream=body)) as client:
        with pytest.raises(Unavailable, match="the engine is gone"):
            await (await client.stream("x")).completion()


async def test_transport_faults_are_typed() -> None:
    """A refused connection and a silence become ours, with what to do."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused") if request.method == "POST" else httpx.ReadTimeout("silent")

    async with client_of(refuse) as client:
        with pytest.raises(Unavailable, match="sagellm up"):
            await client.generate("x")
        with pytest.raises(DeadlineExceeded, match="silent"):
            await client.models()


async def test_nonsense_is_an_error() -> None:
    """A server that is none of ours is recognised."""
    async with client_of(lambda request: httpx.Response(200, text="<html>")) as client:
        with pytest.raises(Internal, match="is it a sageLLM gateway"):
            await client.generate("x")
