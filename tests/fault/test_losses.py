"""A process dies in the middle of a stream: the stream goes on, with the same tokens."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from sagellm_common.bus import Bus
from sagellm_common.contracts.decisions import DecisionRecord, ExplainRequest
from sagellm_common.contracts.frames import TokenFrame
from sagellm_common.contracts.policy import LEADER_TTL_S, Leader
from sagellm_common.nats_server import NatsServer
from sagellm_common.settings import BusSettings
from support.stack import LocalStack
from support.wait import eventually, eventually_async

TOKENS = 600
PROMPT = list(range(10, 42))


class Stream:
    """One stream, read in the background: TOKENS greedy tokens of the mock model, or what `fields` ask for instead."""

    def __init__(self, url: str, **fields: Any) -> None:
        self.text, self.chunks, self.finish, self.request_id = "", 0, "", ""
        asked = {"model": "mock-model", "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
        self._fields: dict[str, Any] = {**asked, **fields}
        self._client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=60)
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for chunk in await self._open():
            self.request_id = chunk.id
            for choice in chunk.choices:
                self.text += choice.text
                self.chunks += 1
                self.finish = choice.finish_reason or self.finish

    async def _open(self) -> AsyncIterator[openai.types.Completion]:
        opened: AsyncIterator[openai.types.Completion] = await self._client.completions.create(
            stream=True, extra_body={"ignore_eos": True}, **self._fields
        )
        return opened

    async def progressed(self, chunks: int) -> None:
        """Return once so many chunks have come."""
        await eventually(lambda: self.chunks >= chunks or self._task.done(), what=f"{chunks} chunks")
        if self._task.done():
            self._task.result()

    async def end(self) -> str:
        """Return the whole text."""
        try:
            await asyncio.wait_for(self._task, 40)
        finally:
            await self._client.close()
        return self.text


async def _undisturbed(stack: LocalStack, **fields: Any) -> str:
    return await Stream(stack.url, **fields).end()


class Killer:
    """Kills the engine that serves the next stream as soon as it has sent so many tokens.

    It listens to the frames themselves: a fast engine is done before its next report.
    """

    def __init__(self, stack: LocalStack, after: int) -> None:
        self.served_by: list[str] = []
        self._stack, self._left = stack, after

    async def listen(self, bus: Bus) -> None:
        """Count the tokens of every frame from now on."""
        await bus.subscribe(f"{bus.settings.subjects.prefix}.tokens.*", TokenFrame, self._seen)

    def _seen(self, frame: TokenFrame, received: object) -> None:
        if frame.items and frame.engine_id not in self.served_by:
            self.served_by.append(frame.engine_id)
        before, self._left = self._left, self._left - sum(len(item.token_ids) for item in frame.items)
        if before > 0 >= self._left:
            self._stack.engines[frame.engine_id].kill()


async def test_an_engine_dies_and_another_continues_the_same_stream(broken_stack: LocalStack, bus: Bus) -> None:
    """The engine that serves is killed mid-stream; another of its kind continues with the same greedy tokens."""
    broken_stack.start_rest()
    broken_stack.start_scheduler("s1")
    for engine_id in ("e1", "e2"):
        broken_stack.start_engine(engine_id)
    await broken_stack.ready(engines=2)
    expected = await _undisturbed(broken_stack)
    killer = Killer(broken_stack, after=50)
    await killer.listen(bus)
    stream = Stream(broken_stack.url)
    assert await stream.end() == expected
    assert stream.finish == "length"
    assert sorted(killer.served_by) == ["e1", "e2"]


async def test_a_sampled_stream_of_the_built_in_model_goes_on_with_the_same_tokens(
    broken_stack: LocalStack, bus: Bus
) -> None:
    """The same with two engines that compute, at temperature 0.8: the seed gives the other engine the same draws."""
    broken_stack.start_rest()
    broken_stack.start_scheduler("s1")
    for engine_id in ("e1", "e2"):
        broken_stack.start_engine(engine_id, backend="cpu", model="sage-tiny")
    await broken_stack.ready(engines=2)
    asked = {"model": "sage-tiny", "prompt": "Once upon a time", "max_tokens": 1000, "temperature": 0.8}
    expected = await _undisturbed(broken_stack, seed=7, **asked)
    assert await _undisturbed(broken_stack, seed=8, **asked) != expected
    killer = Killer(broken_stack, after=40)
    await killer.listen(bus)
    stream = Stream(broken_stack.url, seed=7, **asked)
    assert await stream.end() == expected
    assert stream.finish == "length"
    assert sorted(killer.served_by) == ["e1", "e2"]


async def _leader(bus: Bus) -> str:
    """The id of the scheduler that holds the lease, empty if none does."""
    bucket = await bus.bucket(bus.settings.subjects.bucket("leader"), ttl_s=LEADER_TTL_S)
    entry = await bucket.get(Leader, "scheduler")
    return "" if entry is None else entry[0].scheduler_id


async def _explained(bus: Bus, request_id: str) -> DecisionRecord:
    return await bus.request(bus.settings.subjects.explain, ExplainRequest(request_id=request_id), DecisionRecord)


async def test_the_leading_scheduler_dies_and_no_token_is_lost(broken_stack: LocalStack, bus: Bus) -> None:
    """Two schedulers run, the leader is killed mid-stream: the stream ends whole, the other leads within 3 s."""
    broken_stack.start_rest()
    for scheduler_id in ("s1", "s2"):
        broken_stack.start_scheduler(scheduler_id)
    broken_stack.start_engine("e1")
    await broken_stack.ready()
    expected = await _undisturbed(broken_stack)
    old = await _leader(bus)
    stream = Stream(broken_stack.url)
    await stream.progressed(50)
    broken_stack.schedulers[old].kill()
    died_at = asyncio.get_running_loop().time()

    async def taken_over() -> bool:
        return await _leader(bus) not in ("", old)

    await eventually_async(taken_over, 5)
    assert asyncio.get_running_loop().time() - died_at < 3.0
    assert await stream.end() == expected
    assert await _undisturbed(broken_stack) == expected


async def test_a_request_that_comes_as_the_leader_dies_is_served_by_the_next(
    broken_stack: LocalStack, bus: Bus
) -> None:
    """A request sent while nobody leads is served by the standby, which explains what the dead one decided too."""
    broken_stack.start_rest()
    for scheduler_id in ("s1", "s2"):
        await broken_stack.start_scheduler(scheduler_id).up(bus)
    broken_stack.start_engine("e1", mock_step_ms=20.0)
    await broken_stack.ready()
    old = await _leader(bus)
    running = Stream(broken_stack.url, max_tokens=400)
    await running.progressed(5)
    broken_stack.schedulers[old].kill()
    late = Stream(broken_stack.url, max_tokens=8)
    assert len(await late.end()) > 0
    assert late.finish == "length"
    standby = await _leader(bus)
    assert standby not in ("", old)
    [decision] = (await _explained(bus, late.request_id)).decisions
    assert (decision.scheduler_id, decision.chosen) == (standby, "e1")
    [decision] = (await _explained(bus, running.request_id)).decisions
    assert (decision.scheduler_id, decision.chosen) == (old, "e1")
    assert running.finish == ""
    await running.end()

    async def has_outcome() -> bool:
        return (await _explained(bus, running.request_id)).outcome is not None

    await eventually_async(has_outcome, 20, "the outcome of a request that the dead leader placed")
    record = await _explained(bus, running.request_id)
    assert (record.outcome, record.completion_tokens) == ("finished", 400)
    assert [(made.scheduler_id, made.chosen) for made in record.decisions] == [(old, "e1")]


async def test_nats_restarts_and_the_stream_goes_on(tmp_path: Path) -> None:
    """nats-server is killed and started again mid-stream: every token arrives, once."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    stack = LocalStack(BusSettings(nats_url=server.url), tmp_path)
    try:
        stack.start_rest()
        stack.start_scheduler("s1")
        stack.start_engine("e1", mock_step_ms=5.0)
        await stack.ready()
        expected = await _undisturbed(stack)
        stream = Stream(stack.url)
        await stream.progressed(50)
        server.kill()
        server.start()
        assert await stream.end() == expected
        assert await _undisturbed(stack) == expected
    finally:
        stack.stop()
        server.stop()


async def test_with_its_only_engine_gone_a_request_gets_a_typed_error(broken_stack: LocalStack) -> None:
    """With its only engine stopped, a request ends in a typed error; when one is back, requests are served."""
    broken_stack.start_rest()
    broken_stack.start_scheduler("s1", max_queue_time_s=1.0)
    engine = broken_stack.start_engine("e1")
    await broken_stack.ready()
    expected = await _undisturbed(broken_stack)
    engine.terminate()
    assert await engine.wait() == 0
    async with openai.AsyncOpenAI(base_url=f"{broken_stack.url}/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.APIStatusError, match=r"engine|model") as caught:
            await client.completions.create(model="mock-model", prompt=PROMPT, max_tokens=4)
    assert caught.value.status_code in (404, 503)
    broken_stack.start_engine("e2")
    await broken_stack.ready()
    assert await _undisturbed(broken_stack) == expected


async def test_without_the_registry_known_models_are_still_served(broken_stack: LocalStack) -> None:
    """The registry is killed mid-stream: the stream ends whole, and new requests for the same model are served."""
    broken_stack.start_rest()
    broken_stack.start_scheduler("s1")
    broken_stack.start_engine("e1")
    await broken_stack.ready()
    expected = await _undisturbed(broken_stack)
    stream = Stream(broken_stack.url)
    await stream.progressed(50)
    assert broken_stack.registry is not None
    broken_stack.registry.kill()
    assert await stream.end() == expected
    assert await _undisturbed(broken_stack) == expected
