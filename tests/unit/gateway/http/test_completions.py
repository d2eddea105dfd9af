"""Completions over HTTP, spoken to by the real `openai` client."""

import json
from typing import Any

import httpx
import openai
import pytest

from sagellm_common.errors import ResourceExhausted
from sagellm_gateway.generation.api import Delta
from sagellm_gateway.http.schemas.completions import Completion
from support.fake_gateway import FakeGateway, logprob, tokens

MODEL = "fake/model-1.0"


async def test_a_whole_completion_has_openais_shape(client: openai.AsyncOpenAI) -> None:
    """Text, finish reason and usage are where OpenAI puts them."""
    reply = await client.completions.create(model=MODEL, prompt="Say hello")
    assert (reply.object, reply.id, reply.choices[0].text) == ("text_completion", "request0", "Hello world!")
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == 6


async def test_a_streamed_completion_has_one_chunk_per_token(client: openai.AsyncOpenAI) -> None:
    """Each token has its own chunk; the finish reason comes with the last text, then the usage."""
    stream = await client.completions.create(
        model=MODEL, prompt=[1, 2, 3], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].text for chunk in chunks[:-1]] == ["Hello", " world", "!"]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        ("text", ["text"]),
        ([1, 2], [[1, 2]]),
        (["one", "two"], ["one", "two"]),
        (["12", "13"], ["12", "13"]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
async def test_all_forms_of_prompts_reach_the_gateway(
    client: openai.AsyncOpenAI, gateway: FakeGateway, prompt: Any, seen: list[Any]
) -> None:
    """A text, token ids, and lists of either become one request per prompt."""
    await client.completions.create(model=MODEL, prompt=prompt)
    assert [request.prompt for request in gateway.requests] == seen


@pytest.mark.parametrize("stream", [False, True])
async def test_a_list_of_prompts_is_one_answer(http: httpx.AsyncClient, gateway: FakeGateway, stream: bool) -> None:
    """Choices are numbered over prompts and `n`, and the usage is the sum."""
    gateway.scripts = [[*tokens(f"p{i}a", "x"), *tokens(f"p{i}b", choice=1)] for i in range(3)]
    body = {"prompt": ["a", "b", "c"], "n": 2, "stream": stream, "stream_options": {"include_usage": True}}
    reply = await http.post("/v1/completions", json=body)
    texts: dict[int, str] = {}
    if stream:
        data = [json.loads(part[6:]) for part in reply.text.split("\n\n")[:-2]]
        choices, usage = [choice for event in data for choice in event["choices"]], data[-1]["usage"]
    else:
        choices, usage = reply.json()["choices"], reply.json()["usage"]
    for choice in choices:
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {0: "p0ax", 1: "p0b", 2: "p1ax", 3: "p1b", 4: "p2ax", 5: "p2b"}
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (9, 9)


@pytest.mark.parametrize("stream", [False, True])
async def test_one_failed_prompt_fails_its_batch_and_cancels_the_others(
    http: httpx.AsyncClient, gateway: FakeGateway, stream: bool
) -> None:
    """If one prompt of a list fails, the client gets its error, and what the others would do is cancelled."""
    gateway.scripts = [tokens("fine", "fine"), [ResourceExhausted("full")]]
    reply = await http.post("/v1/completions", json={"prompt": ["a", "b"], "stream": stream})
    assert '"code":"resource_exhausted"' in reply.text
    assert all(generation.cancelled.is_set() for generation in gateway.generations)


async def test_logprobs_have_the_format_of_completions(client: openai.AsyncOpenAI, gateway: FakeGateway) -> None:
    """Parallel lists, with text offsets that run on through a stream."""
    steps: Any = [
        [Delta(0, "ab", [1], logprobs=[logprob("ab", -1.0, "c")])],
        [Delta(0, "d", [2], logprobs=[logprob("d", -2.0, "e")], finish_reason="stop")],
    ]
    gateway.scripts = [steps]
    reply = await client.completions.create(model=MODEL, prompt="x", logprobs=1)
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.token_logprobs, logprobs.text_offset) == (["ab", "d"], [-1.0, -2.0], [0, 2])
    assert logprobs.top_logprobs == [{"c": -9999.0}, {"e": -9999.0}]
    stream = await client.completions.create(model=MODEL, prompt="x", logprobs=1, stream=True)
    streamed = [c.choices[0].logprobs for c in [c async for c in stream] if c.choices[0].logprobs]
    assert [(part.tokens, part.text_offset) for part in streamed] == [(["ab"], [0]), (["d"], [2])]


async def test_every_event_is_what_the_schema_says(http: httpx.AsyncClient, gateway: FakeGateway) -> None:
    """Events parse as the documented body, with no field beside it; a tool call's finish reads as stop."""
    gateway.scripts = [
        [
            [Delta(0, "a", [1]), Delta(0, "b", [2], logprobs=[logprob("b")])],
            [Delta(0, "c", [3]), Delta(0, "", [4], finish_reason="tool_calls")],
        ]
    ]
    reply = await http.post("/v1/completions", json={"prompt": "x", "stream": True})
    received = [json.loads(part[6:]) for part in reply.text.split("\n\n")[:-2]]
    assert reply.text.endswith("data: [DONE]\n\n")
    assert "".join(event["choices"][0]["text"] for event in received) == "abc"
    assert received[-1]["choices"][0]["finish_reason"] == "stop"
    for event in received:
        assert Completion.model_validate(event).model_dump(exclude_unset=True) == event
