"""A stack whose engines come and go, as children of the test, and clients that check every token."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from sagellm.client.http_async import AsyncHttpClient
from sagellm.launcher.config import StackConfig
from sagellm.launcher.readiness import connect
from sagellm.launcher.stack import Change, Stack
from sagellm_common import tasks
from sagellm_common.bus import Bucket, Bus
from sagellm_common.contracts.plan import EngineGroup, FleetPlan
from sagellm_common.nats_server import free_port
from support.wait import eventually

MODEL = "mock-model"
START_TIMEOUT_S = 60.0
PACE = {"SAGELLM_MOCK_STEP_MS": "8", "SAGELLM_MOCK_DECODE_MS_PER_SEQ": "1", "SAGELLM_LOG_LEVEL": "info"}


class ScaledStack:
    """A running stack of mock engines that make a token every 9 ms or so, its changes, and its bus."""

    def __init__(self, stack: Stack, changes: list[Change]) -> None:
        self.stack, self.changes = stack, changes
        self.bus: Bus | None = None

    @property
    def engines(self) -> list[str]:
        """Engines that are ready and have not been told to go."""
        return [name for name in self.stack.engines("hybrid") if self.stack.states[name] == "ready"]

    async def state(self, name: str, state: str) -> None:
        """Return once a child is in a state."""
        await eventually(
            lambda: self.stack.states.get(name) == state, START_TIMEOUT_S, f"{name} {state}, {self.changes}"
        )

    async def gone(self, name: str) -> None:
        """Return once an engine is no part of the stack any more."""
        await eventually(lambda: name not in self.stack.children, START_TIMEOUT_S, f"the end of {name}")

    def said(self, name: str) -> list[str]:
        """The states that a child has gone through."""
        return [change.state for change in self.changes if change.name == name]

    async def want(self, count: int, **fields: object) -> None:
        """Be the planner: want so many engines, while all that are ready are known."""
        assert self.bus is not None
        plan = FleetPlan(
            model=MODEL,
            time_s=time.time(),
            groups=[EngineGroup(kind="mock", count=count)],
            ready={"hybrid": len(self.engines)},
            last_hour=int(time.time() / 3600),
            **fields,  # type: ignore[arg-type]  # fields of the message
        )
        await (await self.plans()).put(MODEL, plan)

    async def plans(self) -> Bucket:
        assert self.bus is not None
        return await self.bus.bucket(self.bus.settings.subjects.bucket("plans"))

    async def plan(self, holds: Callable[[FleetPlan], bool]) -> FleetPlan:
        """Return the first plan that fulfils a condition."""
        found: asyncio.Future[FleetPlan] = asyncio.get_running_loop().create_future()

        def put(key: str, plan: FleetPlan) -> None:
            if holds(plan) and not found.done():
                found.set_result(plan)

        follower = await (await self.plans()).follow(FleetPlan, put, lambda key: None)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                return await found
        finally:
            await follower.stop()


class Asked:
    """One request of a number of greedy tokens, whose answer is known: each number starts another text."""

    def __init__(self, client: AsyncHttpClient, number: int, tokens: int) -> None:
        self.number, self.tokens = number, tokens
        self.received = 0
        self.id = ""
        self._client = client
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> tuple[str, str]:
        prompt = [10 + self.number, *range(20, 40)]
        stream = await self._client.stream(prompt, max_tokens=self.tokens, temperature=0, ignore_eos=True)
        async with stream:
            async for _ in stream:
                self.received += 1
                self.id = stream.request_id or ""
        choice = stream.so_far.choices[0]
        return choice.text, choice.finish_reason or ""

    async def progressed(self) -> None:
        """Return once several chunks have come."""
        await eventually(lambda: self.received > 3 or self.task.done(), 30, "a stream's first tokens")


class Checker:
    """Asks, and holds each answer to the one that an undisturbed engine gave to the same prompt."""

    def __init__(self, client: AsyncHttpClient) -> None:
        self._client = client
        self._expected: dict[tuple[int, int], tuple[str, str]] = {}
        self.asked: list[Asked] = []

    async def learn(self, tokens: int, numbers: int = 1) -> None:
        """Ask while nothing happens, and remember."""
        for number in range(numbers):
            answer = await Asked(self._client, number, tokens).task
            assert answer[1] == "length"
            self._expected[number, tokens] = answer

    def ask(self, tokens: int, number: int = 0) -> Asked:
        """Ask in the background."""
        self.asked.append(Asked(self._client, number, tokens))
        return self.asked[-1]

    async def check(self) -> None:
        """Wait for all that were asked: every answer has come, whole and right."""
        answers = await asyncio.wait_for(asyncio.gather(*(asked.task for asked in self.asked)), 60)
        wrong = [
            asked.number
            for asked, answer in zip(self.asked, answers, strict=True)
            if answer != self._expected[asked.number, asked.tokens]
        ]
        assert not wrong, f"{len(wrong)} of {len(answers)} answers are not as expected"

    async def forget(self) -> None:
        """Wait for nobody any more."""
        await tasks.end(*(asked.task for asked in self.asked))
        self.asked.clear()


@asynccontextmanager
async def scaled_stack(folder: Path, router: str | None = None, **env: str) -> AsyncIterator[ScaledStack]:
    """Run a stack of one to three engines; on entry it is ready, and at the end it has left no process."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    changes: list[Change] = []
    config = StackConfig(backend="mock", scale_to=3, router=router, port=free_port(), env={**PACE, **env})
    running = ScaledStack(Stack(config, folder / "stack", changes.append), changes)
    try:
        await running.stack.start()
        await running.stack.wait_ready(START_TIMEOUT_S)
        running.bus = await connect(running.stack.plan.nats_url, config.deployment)
        yield running
    finally:
        if running.bus is not None:
            await running.bus.close()
        await running.stack.stop()
    left = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    assert left == []


@asynccontextmanager
async def checking(running: ScaledStack) -> AsyncIterator[Checker]:
    """A client of the stack's gateway whose answers are checked at the end of the block."""
    async with AsyncHttpClient(running.stack.plan.http_url) as client:
        checker = Checker(client)
        try:
            yield checker
            await checker.check()
        finally:
            await checker.forget()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the caller's settings reaches the stack."""
    for name in [name for name in os.environ if name.startswith("SAGELLM_") and name != "SAGELLM_CACHE_DIR"]:
        monkeypatch.delenv(name)
