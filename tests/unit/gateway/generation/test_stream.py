"""The buffer between the bus and one client."""

import asyncio

import pytest

from sagellm_common.contracts.frames import TokenItem
from sagellm_common.errors import Cancelled, SageError, Unavailable
from sagellm_gateway.generation.api import Delta
from sagellm_gateway.generation.pipeline import ChoicePipeline
from sagellm_gateway.generation.stream import TokenStream
from sagellm_gateway.text.detokenizer import Detokenizer
from sagellm_gateway.text.stops import StopMatcher
from sagellm_gateway.text.token_bytes import TokenBytes
from support.tokenizers import byte_level

TOKENIZER = byte_level()
TABLE = TokenBytes(TOKENIZER)


class Owner:
    """Notes what a stream tells."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def stopped(self, request_id: str, choice: int) -> None:
        self.told.append(("stopped", choice))

    def drained(self, request_id: str) -> None:
        self.told.append(("drained", request_id))

    def abandoned(self, request_id: str, error: SageError) -> None:
        self.told.append(("abandoned", error.code))


def ids(text: str) -> list[int]:
    """Tokens of a text."""
    found: list[int] = TOKENIZER.encode(text, add_special_tokens=False).ids
    return found


def make(n: int = 1, stops: tuple[str, ...] = (), capacity: int = 100) -> tuple[TokenStream, Owner]:
    """A stream of `n` choices, and its owner."""
    owner = Owner()
    pipelines = [
        ChoicePipeline(choice, Detokenizer(TABLE), stops=StopMatcher(stops) if stops else None) for choice in range(n)
    ]
    stream = TokenStream(
        request_id="r1", model="m", created=1, prompt_tokens=3, pipelines=pipelines, owner=owner, capacity=capacity
    )
    return stream, owner


def put(stream: TokenStream, tokens: list[int], *, choice: int = 0, finish: str | None = None, skip: int = 0) -> None:
    """Give the stream an item."""
    stream.put(TokenItem("r1", 0, choice, 0, tokens, finish=finish, cached_tokens=2), skip)


async def everything(stream: TokenStream) -> list[Delta]:
    """Read to the end."""
    return [delta async for deltas in stream for delta in deltas]


async def test_one_wakeup_serves_all_that_is_there() -> None:
    """Items that have gathered come as one delta per choice, with all their text and tokens."""
    stream, _ = make(n=2)
    for token in ids(" quick brown"):
        put(stream, [token])
    put(stream, ids(" fox"), choice=1)
    deltas = await anext(stream)
    assert [(delta.choice, delta.text) for delta in deltas] == [(0, " quick brown"), (1, " fox")]
    assert deltas[0].token_ids == ids(" quick brown")


async def test_the_end_comes_after_all_choices() -> None:
    """Iteration ends when every choice has finished; usage is complete then."""
    stream, _ = make(n=2)
    put(stream, ids(" fox"), finish="stop")
    reader = asyncio.create_task(everything(stream))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not reader.done()
    put(stream, ids(" dog"), choice=1, finish="length")
    deltas = await reader
    assert [delta.finish_reason for delta in deltas] == ["stop", "length"]
    assert stream.usage.completion_tokens == len(ids(" fox")) + len(ids(" dog"))
    assert (stream.usage.prompt_tokens, stream.usage.cached_tokens) == (3, 2)


async def test_repeated_tokens_are_skipped() -> None:
    """The first `skip` tokens of an item are not shown again."""
    stream, _ = make()
    put(stream, ids(" quick brown"), skip=1, finish="stop")
    assert "".join(d.text for d in await everything(stream)) == TOKENIZER.decode(ids(" quick brown")[1:])


async def test_an_error_comes_after_what_was_delivered() -> None:
    """What arrived before a failure is read first, then the failure is raised."""
    stream, _ = make()
    put(stream, ids(" fox"))
    stream.fail(Unavailable("lost"))
    assert (await anext(stream))[0].text == " fox"
    with pytest.raises(Unavailable, match="lost"):
        await anext(stream)


async def test_an_error_wakes_a_waiting_reader() -> None:
    """A reader that waits for tokens gets the failure at once."""
    stream, _ = make()
    reader = asyncio.create_task(everything(stream))
    await asyncio.sleep(0)
    stream.fail(Unavailable("lost"))
    with pytest.raises(Unavailable):
        await reader


async def test_a_stop_string_ends_a_choice_and_is_told() -> None:
    """Text, tokens and usage end at the token that completed the stop string; what follows is not shown."""
    stream, owner = make(stops=("brown",))
    tokens = ids(" quick brown fox")
    put(stream, tokens)
    put(stream, ids(" dog"))
    deltas = await everything(stream)
    assert "".join(delta.text for delta in deltas) == " quick "
    assert deltas[-1].finish_reason == "stop"
    shown = [token for delta in deltas for token in delta.token_ids]
    assert TOKENIZER.decode(shown).startswith(" quick brown")
    assert len(shown) < len(tokens)
    assert stream.usage.completion_tokens == len(shown)
    assert owner.told == [("stopped", 0)]


async def test_a_full_buffer_says_so_and_tells_when_it_is_read() -> None:
    """The stream is full at its capacity in tokens; reading tells the owner once."""
    stream, owner = make(capacity=3)
    put(stream, [5, 6])
    assert not stream.is_full
    put(stream, [7])
    assert stream.is_full
    await anext(stream)
    assert not stream.is_full
    assert owner.told == [("drained", "r1")]
    put(stream, [8], finish="stop")
    await anext(stream)
    assert owner.told == [("drained", "r1")]


async def test_a_reader_that_is_cancelled_gives_the_request_up() -> None:
    """Cancelling the task that waits for tokens cancels the request."""
    stream, owner = make()
    reader = asyncio.create_task(everything(stream))
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert owner.told == [("abandoned", "cancelled")]


async def test_cancel_is_told_once_and_ends_the_iteration() -> None:
    """A second cancel changes nothing, nor does one after the end."""
    stream, owner = make()
    put(stream, ids(" fox"))
    await stream.cancel("enough")
    await stream.cancel("enough")
    assert owner.told == [("abandoned", "cancelled")]
    with pytest.raises(Cancelled):
        await anext(stream)
    stream, owner = make()
    put(stream, ids(" fox"), finish="stop")
    await everything(stream)
    await stream.cancel("late")
    assert owner.told == []
