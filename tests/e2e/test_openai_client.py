"""The stack with the built-in model, spoken to by the real `openai` client."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from support.stack import LocalStack

MODEL = "sage-tiny"
STORY = [{"role": "user", "content": "Tell me a story about a fox and a lantern."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
async def client(stack: LocalStack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="unused", max_retries=0) as opened:
        yield opened


async def _ask(client: openai.AsyncOpenAI, content: str, **options: Any) -> str:
    reply = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": content}], temperature=0, max_tokens=200, **options
    )
    return reply.choices[0].message.content or ""


@pytest.mark.acceptance(120)
async def test_a_story_names_what_it_was_asked_for(client: openai.AsyncOpenAI) -> None:
    """The built-in model tells a story that names every requested thing."""
    text = (await _ask(client, STORY[0]["content"])).lower()
    assert "fox" in text
    assert "lantern" in text


async def test_sums_are_right(client: openai.AsyncOpenAI) -> None:
    """The built-in model adds and subtracts two-digit numbers."""
    assert "42" in await _ask(client, "What is 17 + 25?")
    assert "33" in await _ask(client, "What is 58 - 25?")


async def test_json_comes_in_the_shape_asked_for(client: openai.AsyncOpenAI) -> None:
    """Asked for JSON with named keys, the built-in model answers with a JSON object that has exactly those."""
    answer = json.loads(await _ask(client, 'Reply with JSON: {"name": string, "age": integer}'))
    assert set(answer) == {"name", "age"}


async def test_a_tool_is_called_with_its_arguments(client: openai.AsyncOpenAI) -> None:
    """Given a tool, the answer is a tool call with the right name and arguments, and finish_reason says so."""
    reply = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[TOOL],  # type: ignore[list-item]  # a plain dict has the client's shape
        temperature=0,
        max_tokens=100,
    )
    assert reply.choices[0].finish_reason == "tool_calls"
    call: Any = (reply.choices[0].message.tool_calls or [])[0]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}


async def test_a_stream_equals_the_whole_answer(client: openai.AsyncOpenAI) -> None:
    """Streamed pieces joined are the answer that comes without streaming, with the same usage."""
    options: dict[str, Any] = {"model": MODEL, "messages": STORY, "temperature": 0, "max_tokens": 60}
    whole = await client.chat.completions.create(**options)
    text, usage = "", None
    async for chunk in await client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    ):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


async def test_a_seed_makes_sampling_repeatable(client: openai.AsyncOpenAI) -> None:
    """The same seed gives the same sampled text, alone or beside other requests; another seed another text."""

    async def sampled(seed: int) -> str:
        reply = await client.completions.create(
            model=MODEL, prompt="Once upon a time", max_tokens=30, temperature=1.5, seed=seed
        )
        return reply.choices[0].text

    assert await sampled(1) == await sampled(1)
    assert await sampled(1) != await sampled(2)


async def test_several_choices_differ_and_count(client: openai.AsyncOpenAI) -> None:
    """`n` gives that many choices, each its own sample, all counted in the usage."""
    reply = await client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=20, temperature=1.5, seed=3, n=3
    )
    assert len({choice.text for choice in reply.choices}) == 3
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert reply.usage is not None
    assert reply.usage.completion_tokens <= 60


async def test_a_stop_string_ends_the_text_before_it(client: openai.AsyncOpenAI) -> None:
    """The text ends before the stop string, and the reason is `stop`."""
    whole = await _ask(client, STORY[0]["content"])
    stop = whole.split()[4]
    reply = await client.chat.completions.create(
        model=MODEL, messages=STORY, temperature=0, max_tokens=200, stop=[stop]
    )  # type: ignore[arg-type]
    assert reply.choices[0].message.content == whole[: whole.index(stop)]
    assert reply.choices[0].finish_reason == "stop"


async def test_logprobs_come_with_alternatives(client: openai.AsyncOpenAI) -> None:
    """Each token has its log-probability and the asked number of alternatives; greedy takes the likeliest."""
    reply = await client.chat.completions.create(
        model=MODEL,
        messages=STORY,  # type: ignore[arg-type]  # plain dicts have the client's shape
        temperature=0,
        max_tokens=5,
        logprobs=True,
        top_logprobs=3,
    )
    assert reply.choices[0].logprobs is not None
    content = reply.choices[0].logprobs.content or []
    assert len(content) == 5
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == max(top.logprob for top in token.top_logprobs)


async def test_max_tokens_ends_with_length(client: openai.AsyncOpenAI) -> None:
    """A request that reaches max_tokens says `length` and has exactly so many."""
    reply = await client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=7, temperature=0)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 7


async def test_a_repeated_prompt_hits_the_prefix_cache(client: openai.AsyncOpenAI) -> None:
    """The second time, most of a long prompt is counted as cached, and the answer is the same."""
    prompt = "The fox and the lantern went to the river. " * 12
    first, second = [
        await client.completions.create(model=MODEL, prompt=prompt, max_tokens=10, temperature=0) for _ in range(2)
    ]
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= 64
    assert first.choices[0].text == second.choices[0].text


async def test_the_model_is_listed(client: openai.AsyncOpenAI) -> None:
    """`GET /v1/models` lists what engines serve."""
    assert [model.id async for model in client.models.list()] == [MODEL]


async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI) -> None:
    """The error names the model that is unknown and those that are served."""
    with pytest.raises(openai.NotFoundError, match="nobody") as caught:
        await client.completions.create(model="nobody", prompt="hi")
    assert MODEL in caught.value.message
