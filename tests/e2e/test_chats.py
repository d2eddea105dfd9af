"""Chats on two engines: each goes on where its history is."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sagellm.client.nats_async import AsyncNatsClient
from sagellm_common.settings import BusSettings
from support.stack import LocalStack

CHATS, TURNS, SAID, ANSWERED = 4, 3, 20, 80
PAGE_SIZE = 16


@pytest.fixture
def two_engines(bus_settings: BusSettings, tmp_path: Path) -> Iterator[LocalStack]:
    """A gateway, a scheduler that predicts, and two mock engines, whose prompts take 2 ms a token."""
    stack = LocalStack(bus_settings, tmp_path)
    stack.start_rest()
    stack.start_scheduler("s1", router="predictive")
    for name in ("e1", "e2"):
        stack.start_engine(name, mock_step_ms=2, mock_prefill_ms_per_token=2)
    yield stack
    stack.stop()


@pytest.fixture
async def client(two_engines: LocalStack, bus_settings: BusSettings) -> AsyncIterator[AsyncNatsClient]:
    """A client of it, once it is ready."""
    await two_engines.ready()
    async with AsyncNatsClient(bus_settings.nats_url, deployment=bus_settings.deployment) as client:
        yield client


async def test_the_next_question_goes_where_a_short_history_is(client: AsyncNatsClient) -> None:
    """Of the 100 or 200 tokens that were said before, all but what does not fill a page are found, in every turn."""
    chats = [[100 * (number + 1) + place for place in range(SAID)] for number in range(CHATS)]
    found: list[list[int]] = []
    for turn in range(TURNS):
        found.append([])
        for chat in chats:
            answer = await client.generate(
                chat, model="mock-model", max_tokens=ANSWERED, ignore_eos=True, return_token_ids=True
            )
            assert answer.usage is not None
            found[-1].append(answer.usage.cached_tokens)
            chat += answer.choices[0].token_ids or []
            chat += [2000 + 100 * turn + place for place in range(SAID)]
    assert found[0] == [0] * CHATS
    for turn, cached in enumerate(found[1:], 1):
        known = turn * (SAID + ANSWERED)  # but for the last token, whose keys and values nobody needed
        assert cached == [(known - 1) // PAGE_SIZE * PAGE_SIZE] * CHATS
