"""Bad input and refusals: each a clear typed error in OpenAI's shape, and the next request is served."""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from sagellm_common.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SageError,
    Unavailable,
)
from sagellm_gateway.generation.api import Delta
from sagellm_gateway.http import body as reading
from sagellm_gateway.http.app import create_app
from sagellm_gateway.http.body import MAX_BODY_BYTES
from support.fake_gateway import FakeGateway, tokens
from support.http_server import served

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MESSAGES: Any = [{"role": "user", "content": "hi"}]

BAD_BODIES: list[tuple[str, bytes | dict[str, Any], int, str | None]] = [
    (TEXT, b'{"prompt": ', 400, None),
    (TEXT, b"", 400, None),
    (TEXT, b"[1]", 400, None),
    (TEXT, b"null", 400, None),
    (TEXT, b'{"prompt": "\xff\xfe"}', 400, None),
    (TEXT, b'{"prompt": "\\ud800"}', 400, None),
    (TEXT, b"[" * 100_000, 400, None),
    (TEXT, {}, 400, "prompt"),
    (TEXT, {"prompt": 3}, 400, "prompt"),
    (TEXT, {"prompt": [1, "a"]}, 400, "prompt"),
    (TEXT, {"prompt": [1.5]}, 400, "prompt"),
    (TEXT, {"prompt": {"text": "a"}}, 400, "prompt"),
    (TEXT, {"prompt": ["a"] * 129}, 400, "prompt"),
    (TEXT, {"max_tokens": -1}, 400, "max_tokens"),
    (TEXT, {"max_tokens": 0}, 400, "max_tokens"),
    (TEXT, {"max_tokens": "many"}, 400, "max_tokens"),
    (TEXT, {"temperature": -0.1}, 400, "temperature"),
    (TEXT, {"temperature": 1e300}, 400, "temperature"),
    (TEXT, b'{"prompt": "a", "temperature": NaN}', 400, "temperature"),
    (TEXT, {"top_p": 0}, 400, "top_p"),
    (TEXT, {"top_k": -1}, 400, "top_k"),
    (TEXT, {"n": 10**9}, 400, "n"),
    (TEXT, {"n": 0}, 400, "n"),
    (TEXT, {"seed": 2**64}, 400, "seed"),
    (TEXT, {"logprobs": 21}, 400, "logprobs"),
    (TEXT, {"stop": ["x"] * 5000}, 400, "stop"),
    (TEXT, {"stop": [1]}, 400, "stop"),
    (TEXT, {"logit_bias": {"a": 1}}, 400, "logit_bias.a.[key]"),
    (TEXT, {"logit_bias": {"1": 1e9}}, 400, "logit_bias.1"),
    (TEXT, {"priority": 9}, 400, "priority"),
    (TEXT, {"slo": {"ttft_ms": -1}}, 400, "slo.ttft_ms"),
    (TEXT, {"user": "u" * 300}, 400, "user"),
    (TEXT, {"echo": True}, 501, "echo"),
    (TEXT, {"suffix": "end"}, 501, "suffix"),
    (TEXT, {"best_of": 3}, 501, "best_of"),
    (TEXT, {"response_format": {"type": "json_object"}}, 501, "response_format"),
    (TEXT, {"response_format": {"type": "poem"}}, 400, "response_format.type"),
    (CHAT, {"messages": []}, 400, "messages"),
    (CHAT, {"messages": "hi"}, 400, "messages"),
    (CHAT, {"messages": [{"role": "robot", "content": "hi"}]}, 400, "messages.0.role"),
    (CHAT, {"top_logprobs": 2}, 400, "top_logprobs"),
    (CHAT, {"logprobs": True, "top_logprobs": 99}, 400, "top_logprobs"),
    (CHAT, {"tools": [{"type": "function"}]}, 400, "tools.0.function"),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "a b"}}]}, 400, "tools.0.function.name"),
    (CHAT, {"tool_choice": "required"}, 501, "tool_choice"),
    (CHAT, {"tool_choice": {"type": "function", "function": {"name": "f"}}}, 501, "tool_choice"),
    (CHAT, {"tool_choice": "perhaps"}, 400, "tool_choice"),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {}}}, 501, "response_format"),
]


@pytest.mark.parametrize(("path", "body", "status", "param"), BAD_BODIES)
async def test_a_bad_body_is_refused_by_name_and_nothing_is_submitted(
    http: httpx.AsyncClient,
    gateway: FakeGateway,
    path: str,
    body: bytes | dict[str, Any],
    status: int,
    param: str | None,
) -> None:
    """Every kind of bad body gets its status, a sentence and the parameter, and the next request is served."""
    good: dict[str, Any] = {"messages": MESSAGES} if path == CHAT else {"prompt": "hi"}
    is_whole = isinstance(body, dict) and body != {}
    content = json.dumps((good if is_whole else {}) | body).encode() if isinstance(body, dict) else body
    reply = await http.post(path, content=content)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["message"]
    assert error["code"] == ("not_implemented" if status == 501 else "invalid_argument")
    assert reply.headers["x-request-id"]
    assert gateway.requests == []
    assert (await http.post(path, json=good)).status_code == 200


async def test_a_header_that_is_no_number_is_named(http: httpx.AsyncClient) -> None:
    """A wrong SLO header is an invalid argument that names the header."""
    for value in ("soon", "-1", "nan", ""):
        reply = await http.post(TEXT, json={"prompt": "a"}, headers={"x-slo-itl-ms": value})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "x-slo-itl-ms"), value
    reply = await http.post(TEXT, json={"prompt": "a"}, headers={"x-client-request-id": "a" * 300})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "client_request_id")


async def test_a_large_body_is_refused_with_and_without_its_length(http: httpx.AsyncClient) -> None:
    """Over the limit is 413 by the announced length, and by what has come when none is announced."""

    async def chunks() -> Any:
        for _ in range(MAX_BODY_BYTES // 65536 + 2):
            yield b"x" * 65536

    for content in (b"x" * (MAX_BODY_BYTES + 1), chunks()):
        reply = await http.post(TEXT, content=content)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "payload_too_large")
    assert (await http.post(TEXT, json={"prompt": "a"})).status_code == 200


async def test_the_limit_itself_is_accepted(gateway: FakeGateway) -> None:
    """A body of exactly the limit is read."""
    body = json.dumps({"prompt": "a" * 100}).encode()
    async with served(create_app(gateway, max_body_bytes=len(body))) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.post(TEXT, content=body)).status_code == 200
        assert (await http.post(TEXT, content=body + b" ")).status_code == 413


REFUSALS: list[tuple[SageError, type[openai.APIStatusError], str]] = [
    (InvalidArgument("wrong", param="prompt"), openai.BadRequestError, "invalid_request_error"),
    (NotFound("no such model", param="model"), openai.NotFoundError, "invalid_request_error"),
    (ResourceExhausted("full", retry_after_s=1.2), openai.RateLimitError, "rate_limit_error"),
    (Internal("broken"), openai.InternalServerError, "server_error"),
    (Unavailable("no engine", retry_after_s=0.1), openai.InternalServerError, "server_error"),
    (DeadlineExceeded("late"), openai.InternalServerError, "server_error"),
]


@pytest.mark.parametrize(("error", "raised", "kind"), REFUSALS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("late", [False, True])
async def test_a_refusal_keeps_its_status(
    client: openai.AsyncOpenAI,
    gateway: FakeGateway,
    error: SageError,
    raised: type[openai.APIStatusError],
    kind: str,
    stream: bool,
    late: bool,
) -> None:
    """A refusal at submission or after queueing, streamed or not, is OpenAI's exception with code and param."""
    gateway.refusal = None if late else error
    gateway.scripts = [[error]]
    with pytest.raises(raised) as caught:
        await client.completions.create(model="m", prompt="hi", stream=stream)
    assert (caught.value.code, caught.value.param, caught.value.type) == (error.code, error.param, kind)
    assert error.message in caught.value.message
    expected = {1.2: "2", 0.1: "1", None: None}[error.retry_after_s]
    assert caught.value.response.headers.get("retry-after") == expected


async def test_a_refusal_that_will_not_change_is_not_repeated(url: str, gateway: FakeGateway) -> None:
    """OpenAI's client repeats server errors; what is not offered tells it not to."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=2) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.completions.create(model="m", prompt="hi", echo=True)
    assert caught.value.response.headers["x-should-retry"] == "false"


async def test_an_error_mid_stream_is_an_event_and_the_end(
    http: httpx.AsyncClient, client: openai.AsyncOpenAI, gateway: FakeGateway
) -> None:
    """Once tokens have gone out, an error is sent as an event, without [DONE]; OpenAI's client raises it."""
    gateway.scripts = [[[Delta(0, "a", [1])], Unavailable("the engine is lost")]]
    reply = await http.post(CHAT, json={"messages": MESSAGES, "stream": True})
    assert reply.status_code == 200
    last = json.loads(reply.text.split("\n\n")[-2][6:])
    assert last["error"] == {
        "message": "the engine is lost",
        "type": "server_error",
        "param": None,
        "code": "unavailable",
    }
    assert "[DONE]" not in reply.text
    with pytest.raises(openai.APIError, match="the engine is lost"):
        async for _ in await client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
            pass


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("finish", "code"), [("cancelled", "cancelled"), ("error", "internal")])
async def test_an_answer_cut_short_is_an_error(
    http: httpx.AsyncClient, gateway: FakeGateway, stream: bool, finish: Any, code: str
) -> None:
    """OpenAI has no finish reason for a cancelled or failed choice: the client gets an error instead."""
    gateway.scripts = [tokens("a", "b", finish=finish)]
    reply = await http.post(TEXT, json={"prompt": "hi", "stream": stream})
    assert f'"code":"{code}"' in reply.text
    assert "[DONE]" not in reply.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fault_of_ours_is_an_internal_error_without_details(
    http: httpx.AsyncClient, gateway: FakeGateway, stream: bool
) -> None:
    """An unexpected exception becomes a typed error that does not show its message, and the server goes on."""
    gateway.scripts = [[RuntimeError("secret")], tokens("fine")]
    reply = await http.post(TEXT, json={"prompt": "hi", "stream": stream})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in reply.text
    assert (await http.post(TEXT, json={"prompt": "hi"})).status_code == 200


async def test_what_does_not_exist_has_the_same_shape(http: httpx.AsyncClient) -> None:
    """An unknown path is 404 and a wrong method 405, in OpenAI's shape."""
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", TEXT, 405), ("PUT", "/", 404)):
        reply = await http.request(method, path)
        assert reply.status_code == status
        assert reply.headers["content-type"] == "application/json"
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_body_that_never_ends_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a body is answered once its time is over, with the typed error, and its connection is closed."""
    monkeypatch.setattr(reading, "BODY_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    writer.write(b'POST /v1/completions HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\n{"prompt": ')
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 504")
    assert b'"code":"deadline_exceeded"' in answer
