"""Chats over HTTP, spoken to by the real `openai` client."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from sagellm_common.contracts.generate import ToolCall
from sagellm_gateway.generation.api import Delta
from sagellm_gateway.http.schemas.chat import ChatCompletion, ChatCompletionChunk
from support.fake_gateway import FakeGateway, logprob, tokens

MODEL = "fake/model-1.0"
MESSAGES: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}


async def events(http: httpx.AsyncClient, path: str = "/v1/chat/completions", **body: Any) -> list[Any]:
    """All events of a stream, parsed; `[DONE]` as it is."""
    reply = await http.post(path, json={"messages": MESSAGES, "stream": True} | body)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    parts = reply.text.split("\n\n")
    assert parts.pop() == ""
    data = [part.removeprefix("data: ") for part in parts]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


async def test_a_whole_answer_has_openais_shape(client: openai.AsyncOpenAI) -> None:
    """Text, role, finish reason, usage with cached tokens and ids are where OpenAI puts them."""
    reply = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert reply.object == "chat.completion"
    assert (reply.id, reply.model, reply.created) == ("request0", MODEL, 1_700_000_000)
    assert reply._request_id == "request0"
    assert (reply.choices[0].message.role, reply.choices[0].message.content) == ("assistant", "Hello world!")
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (3, 3, 6)
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 2


async def test_a_stream_has_openais_chunks(client: openai.AsyncOpenAI) -> None:
    """The role comes first, each token in a chunk of its own, the finish reason in the last chunk with a choice."""
    stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "Hello", " world", "!", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, None, "stop"]
    assert {chunk.id for chunk in chunks} == {"request0"}
    assert all(chunk.usage is None for chunk in chunks)


async def test_every_event_is_what_the_schema_says(http: httpx.AsyncClient, gateway: FakeGateway) -> None:
    """Fast and slow events alike parse as the documented chunk, with no field beside it, and [DONE] is last."""
    call = ToolCall(id="call_1", name="f", arguments='{"a": 1}')
    gateway.scripts = [
        [
            [Delta(0, "a", [1], logprobs=[logprob("a", -0.1, "b")]), Delta(1, 'quote " and \n € 🙂 \u2028', [2])],
            [Delta(1, "x", [3]), Delta(0, "", [4]), Delta(0, "", [5], tool_calls=[call])],
            [Delta(1, "end", [6], finish_reason="length"), Delta(0, "", [], finish_reason="tool_calls")],
        ]
    ]
    for options in ({}, {"stream_options": {"include_usage": True}}, {"return_token_ids": True}):
        received = await events(http, n=2, **options)
        assert received.pop() == "[DONE]"
        for event in received:
            assert ChatCompletionChunk.model_validate(event).model_dump(exclude_unset=True) == event
        gateway.generations.clear()
    text = "".join(e["choices"][0]["delta"].get("content") or "" for e in received if e["choices"][0]["index"] == 1)
    assert text == 'quote " and \n € 🙂 \u2028xend'


async def test_usage_comes_last_when_asked_for(http: httpx.AsyncClient) -> None:
    """With include_usage every chunk has a null usage, but the last, which has no choices."""
    received = await events(http, stream_options={"include_usage": True})
    assert all(event["usage"] is None for event in received[:-2])
    assert received[-2]["choices"] == []
    assert received[-2]["usage"]["completion_tokens"] == 3
    assert received[-1] == "[DONE]"


async def test_a_delta_that_shows_nothing_is_no_event(http: httpx.AsyncClient, gateway: FakeGateway) -> None:
    """While a character is incomplete nothing is sent; with return_token_ids the ids are."""
    gateway.scripts = [tokens("", "", "🙂", "", finish="length")]
    received = await events(http)
    assert [e["choices"][0]["delta"].get("content") for e in received[:-1]] == ["", "🙂", None]
    received = await events(http, return_token_ids=True)
    assert [i for e in received[:-1] for i in e["choices"][0].get("token_ids", [])] == [0, 1, 2, 3]


async def test_tool_calls_come_whole_in_both_forms(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """Calls are numbered in a stream, listed in a whole answer, and the finish reason is tool_calls."""
    calls = [ToolCall(id=f"call_{i}", name="f", arguments='{"x": "é"}') for i in range(2)]
    gateway.scripts = [
        [
            [Delta(0, "", [1], tool_calls=[calls[0]])],
            [Delta(0, "", [2], tool_calls=[calls[1]], finish_reason="tool_calls")],
        ]
    ]
    reply = await client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=[TOOL])
    message = reply.choices[0].message
    assert message.content is None
    assert [(c.id, c.type, c.function.name, c.function.arguments) for c in message.tool_calls or []] == [  # type: ignore[union-attr]  # only functions are called
        ("call_0", "function", "f", '{"x": "é"}'),
        ("call_1", "function", "f", '{"x": "é"}'),
    ]
    stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=[TOOL], stream=True)
    choices = [chunk.choices[0] async for chunk in stream]
    found = [call for choice in choices for call in choice.delta.tool_calls or []]
    assert [(call.index, call.id) for call in found] == [(0, "call_0"), (1, "call_1")]
    assert choices[-1].finish_reason == "tool_calls"


async def test_tools_reach_the_gateway_unless_switched_off(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """Tools go to the template as they were sent; with tool_choice none they do not."""
    await client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=[TOOL])
    await client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=[TOOL], tool_choice="none")
    assert [request.tools for request in gateway.requests] == [[TOOL], None]


async def test_logprobs_have_the_format_of_chats(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """One object per token with bytes and alternatives, in both forms; an infinity becomes -9999."""
    entry = logprob("é", -0.25, "x", "\ufffd")
    gateway.scripts = [[[Delta(0, "é", [1], logprobs=[entry])], [Delta(0, "", [2], [entry], finish_reason="stop")]]]
    options: Any = {"model": MODEL, "messages": MESSAGES, "logprobs": True, "top_logprobs": 2}
    reply = await client.chat.completions.create(**options)
    assert reply.choices[0].logprobs is not None
    content = reply.choices[0].logprobs.content or []
    assert [(t.token, t.logprob, t.bytes) for t in content] == [("é", -0.25, [0xC3, 0xA9])] * 2
    assert [(t.token, t.logprob, t.bytes) for t in content[0].top_logprobs] == [
        ("x", -9999.0, [0x78]),
        ("\ufffd", -9999.0, None),
    ]
    stream = await client.chat.completions.create(stream=True, **options)
    streamed = [t for c in [c async for c in stream] if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert streamed == content
    assert gateway.requests[0].sampling.logprobs == 2


async def test_several_choices_are_kept_apart(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """Interleaved choices come back in order, each with its own text and reason."""
    gateway.scripts = [[*tokens("b", "B", choice=1, finish="length"), *tokens("a", "A", choice=0)]]
    reply = await client.chat.completions.create(model=MODEL, messages=MESSAGES, n=2)
    assert [(c.index, c.message.content, c.finish_reason) for c in reply.choices] == [
        (0, "aA", "stop"),
        (1, "bB", "length"),
    ]


async def test_a_whole_answer_is_what_the_schema_says(http: httpx.AsyncClient) -> None:
    """The body has exactly the documented fields."""
    reply = await http.post("/v1/chat/completions", json={"messages": MESSAGES, "return_token_ids": True})
    body = reply.json()
    assert ChatCompletion.model_validate(body).model_dump(exclude_unset=True) == body
    assert body["choices"][0]["logprobs"] is None
    assert body["choices"][0]["token_ids"] == [0, 1, 2]


async def test_every_option_reaches_the_gateway(http: httpx.AsyncClient, gateway: FakeGateway) -> None:
    """OpenAI's options and ours arrive in the request; headers complete the body's SLO."""
    sampling = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.25,
        "repetition_penalty": 1.5,
        "min_tokens": 2,
        "seed": 42,
        "n": 3,
        "stop_token_ids": [5],
        "ignore_eos": True,
        "logit_bias": {"17": -100},
    }
    body = sampling | {
        "model": MODEL,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}], "unknown": 1}],
        "max_completion_tokens": 9,
        "stop": "###",
        "include_stop": True,
        "priority": 1,
        "slo": {"ttft_ms": 100},
        "user": "u",
        "session": "s",
        "service_tier": "auto",
        "metadata": None,
        "top_logprobs": None,
    }
    headers = {"x-slo-ttft-ms": "5", "x-slo-itl-ms": "20.5", "x-client-request-id": "mine"}
    gateway.scripts = [[*tokens("a"), *tokens("b", choice=1), *tokens("c", choice=2)]]
    assert (await http.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
    request = gateway.requests[0]
    seen = request.sampling.model_dump()
    assert {k: seen[k] for k in sampling} == sampling | {"stop_token_ids": (5,), "logit_bias": {17: -100}}
    assert (request.model, seen["max_tokens"], seen["logprobs"], request.stop) == (MODEL, 9, None, ["###"])
    assert request.slo.model_dump() == {"ttft_ms": 100, "itl_ms": 20.5, "deadline_ms": None}
    assert (request.user, request.session, request.priority, request.include_stop) == ("u", "s", 1, True)
    assert request.client_request_id == "mine"


def test_the_synchronous_client_streams_too(gateway: FakeGateway) -> None:
    """OpenAI's blocking client reads a stream from a thread."""

    async def run() -> str:
        from sagellm_gateway.http.app import create_app
        from support.http_server import served

        async with served(create_app(gateway)) as url:
            return await asyncio.to_thread(ask, url)

    def ask(url: str) -> str:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
            stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert asyncio.run(run()) == "Hello world!"


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_without_any_token_is_still_an_answer(
    http: httpx.AsyncClient, gateway: FakeGateway, stream: bool
) -> None:
    """A model that ends at once gives an empty text and its finish reason."""
    gateway.scripts = [[[Delta(0, "", [1], finish_reason="stop")]]]
    reply = await http.post("/v1/chat/completions", json={"messages": MESSAGES, "stream": stream})
    assert reply.status_code == 200
    assert '"finish_reason":"stop"' in reply.text
