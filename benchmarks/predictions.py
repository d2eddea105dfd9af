"""How far off the scheduler's predictions are on live stacks, by load: time to the first token and time per token.

Requests of conversation lengths (Azure, scaled) arrive by chance (Poisson) at a share of the highest rate that the
stack sustains; every decision record says what was predicted and what came. A question is either all new, or the next
one in a chat whose history is in a cache. Answers are promised a multiple of the time from token to token that one has
alone; what the promise is worth, a loose one and none show.
"""

import asyncio
import random
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks.long_run import lengths
from benchmarks.overhead import BUILTIN, CACHE
from benchmarks.peers.session import prompts
from benchmarks.shapes import make_model
from benchmarks.stack import running
from sagellm.client.nats_async import AsyncNatsClient
from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.decisions import DecisionRecord
from sagellm_common.settings import BusSettings

LOADS = (0.3, 0.5, 0.7, 0.9)
MAIN = 0.7
"""The load that goals are about: it is measured for longer."""
WARM_UP_S, LEVEL_S, MAIN_S, FULL_S = 15.0, 45.0, 120.0, 20.0
ALONE, ALONE_TOKENS = 5, 64
VOCABULARY = 1000
TIGHT, LOOSE = 1.6, 3.0
LONG = 100
MOCK = {
    "SAGELLM_MOCK_STEP_MS": "24",
    "SAGELLM_MOCK_PREFILL_MS_PER_TOKEN": "0.3",
    "SAGELLM_MOCK_DECODE_MS_PER_SEQ": "0.6",
}
"""Steps so long that the predictions are measured, and not how eight processes share two cores."""
TURNS = 6
IDLE_CHATS = 12
"""A chat goes on when so many have been idle for longer than it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A stack, its traffic, and the promise, in times from token to token of one request alone; None: no promise."""

    name: str
    backend: str
    engines: int
    turns: int
    pace: float | None
    streams: int
    """So many at once keep it full."""
    loads: Sequence[float] = (MAIN,)

    @property
    def title(self) -> str:
        """What it is called in the results."""
        asked = "questions" if self.turns == 1 else "chats"
        promise = {TIGHT: "a tight promise", LOOSE: "a loose promise", None: "no promise"}[self.pace]
        return f"{self.name}, {asked}, {promise}"


def settings(name: str, backend: str, *, engines: int, streams: int) -> list[Setting]:
    """What is measured of a stack."""
    stack = partial(Setting, name, backend, engines=engines, streams=streams)
    return [
        stack(turns=1, pace=TIGHT, loads=LOADS),
        stack(turns=TURNS, pace=TIGHT, loads=LOADS),
        stack(turns=1, pace=LOOSE),
        stack(turns=1, pace=None),
    ]


@dataclass(slots=True)
class Chat:
    """What has been said, and how many turns are still to come."""

    turns: int
    tokens: list[int] = field(default_factory=list)


class Traffic:
    """Requests to one stack, and the records of those that have ended."""

    def __init__(self, client: AsyncNatsClient, model: str, turns: int) -> None:
        self._client, self._model, self._turns = client, model, turns
        self._lengths = lengths()
        self._idle: deque[Chat] = deque()
        self._number = 0
        self._came = asyncio.Event()
        self.records: list[DecisionRecord] = []

    def recorded(self, record: DecisionRecord, received: Received) -> None:
        """Take a decision record from the bus."""
        if record.outcome == "finished":
            self.records.append(record)
            self._came.set()

    async def recorded_all(self, count: int) -> None:
        """Return once so many records have come."""
        while len(self.records) < count:
            self._came.clear()
            await self._came.wait()

    async def request(self) -> None:
        """Send the next request and wait for its end."""
        self._number += 1
        prompt, generated = self._lengths[self._number % len(self._lengths)]
        chat = self._idle.popleft() if len(self._idle) > IDLE_CHATS else Chat(self._turns)
        said = prompts(1, max(prompt // self._turns, 1), self._number)[0]
        chat.tokens += [token % VOCABULARY for token in said]
        completion = await self._client.generate(
            chat.tokens,
            model=self._model,
            max_tokens=generated,
            ignore_eos=True,
            temperature=0.8,
            seed=self._number,
            return_token_ids=True,
        )
        chat.turns -= 1
        if chat.turns:
            chat.tokens += completion.choices[0].token_ids or []
            self._idle.append(chat)

    async def alone_ms(self) -> float:
        """Return the median time from token to token of requests that come one after the other."""
        for number in range(ALONE):
            prompt = [number + 1] * ALONE_TOKENS
            await self._client.generate(prompt, model=self._model, max_tokens=ALONE_TOKENS, ignore_eos=True)
        await self.recorded_all(ALONE)
        return statistics.median(record.itl_ms or 0.0 for record in self.records)

    async def full(self, streams: int, seconds: float) -> float:
        """Keep the stack full with so many requests at once; return how many a second it ends once it has been full
        for a while."""
        begin = time.monotonic() + WARM_UP_S
        end = begin + seconds
        done = 0

        async def stream() -> None:
            nonlocal done
            while time.monotonic() < end:
                await self.request()
                done += begin < time.monotonic() < end

        await asyncio.gather(*(stream() for _ in range(streams)))
        return done / seconds

    async def at_rate(self, per_s: float, seconds: float, seed: int) -> None:
        """Send requests at random times for so long, and wait for the last to end."""
        chance = random.Random(seed)
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < end:
                group.create_task(self.request())
                await asyncio.sleep(chance.expovariate(per_s))


async def by_load(traffic: Traffic, setting: Setting) -> dict[str, Any]:
    """Find the highest rate, then measure at shares of it."""
    most = await traffic.full(setting.streams, FULL_S)
    levels = {}
    for number, load in enumerate(setting.loads):
        await traffic.at_rate(most * load, WARM_UP_S, number)
        traffic.records.clear()
        await traffic.at_rate(most * load, MAIN_S if load == MAIN else LEVEL_S, 100 + number)
        levels[f"{load:.0%}"] = _errors(traffic.records)
        print(f"  at {load:.0%} of {most:.2f} requests/s: {levels[f'{load:.0%}']}", flush=True)
    return {"requests_per_s_at_full_load": round(most, 2), "levels": levels}


def _errors(records: list[DecisionRecord]) -> dict[str, float]:
    """Relative errors of the predictions: |measured - predicted| / measured; and what could be had at all.

    `long`: of answers of a hundred tokens and more. `constant`: of the one number that would have fitted best.
    """
    ttft = [abs(record.ttft_error) for record in records if record.ttft_error is not None]
    decoded = [record for record in records if record.itl_error is not None and record.itl_ms]
    itl = [abs(record.itl_error or 0.0) for record in decoded]
    long = [abs(record.itl_error or 0.0) for record in decoded if (record.completion_tokens or 0) >= LONG]
    return {
        "requests": len(records),
        "cached": round(_cached(records), 3),
        "ttft_p50_ms": round(statistics.median(record.ttft_ms or 0.0 for record in records), 1),
        "itl_p50_ms": round(statistics.median(record.itl_ms or 0.0 for record in decoded), 1),
        **_quantiles("ttft_error", ttft),
        **_quantiles("itl_error", itl),
        **_quantiles("itl_long_error", long),
        **_quantiles("itl_constant_error", _of_best_constant([record.itl_ms or 1.0 for record in decoded])),
    }


def _cached(records: list[DecisionRecord]) -> float:
    """Return the share of all prompts' tokens that was in the cache of the engine that was chosen."""
    chosen = [
        candidate.cached_tokens
        for record in records
        for candidate in record.decisions[-1].candidates
        if candidate.engine_id == record.decisions[-1].chosen
    ]
    return sum(chosen) / max(1, sum(record.prompt_tokens for record in records))


def _quantiles(name: str, errors: Sequence[float]) -> dict[str, float]:
    return {f"{name}_p{share:.0%}"[:-1]: round(float(np.quantile(errors, share)), 3) for share in (0.5, 0.9)}


def _of_best_constant(measured: Sequence[float]) -> list[float]:
    values = np.array(measured)
    guesses = np.quantile(values, np.linspace(0.02, 0.98, 97))
    best = min(guesses.tolist(), key=lambda guess: float(np.median(np.abs(values - guess) / values)))
    return [abs(value - best) / value for value in measured]


@asynccontextmanager
async def started(setting: Setting, promised_ms: float | None) -> AsyncIterator[Traffic]:
    """Start the stack, and traffic to it."""
    env, model, served = MOCK, "mock-model", "mock-model"
    if setting.backend != "mock":
        env, model, served = {}, str(make_model("smol135", CACHE / "smol135", BUILTIN)), "smol135"
    env = env | {"SAGELLM_SLO_ITL_MS": str(promised_ms or "")}
    running_stack = running(backend=setting.backend, model=model, engines=setting.engines, router="predictive", env=env)
    async with running_stack as stack, AsyncNatsClient(stack.plan.nats_url) as client:
        bus = await Bus.connect(BusSettings(nats_url=stack.plan.nats_url), "bench")
        traffic = Traffic(client, served, setting.turns)
        await bus.subscribe(bus.settings.subjects.decision("*"), DecisionRecord, traffic.recorded)
        yield traffic
        await bus.close()


async def measured(setting: Setting) -> dict[str, Any]:
    """Start the stack once to see what can be promised, and once to measure it."""
    promised_ms = None
    if setting.pace:
        async with started(setting, None) as traffic:
            promised_ms = round(setting.pace * await traffic.alone_ms(), 1)
    async with started(setting, promised_ms) as traffic:
        print(f"{setting.title}, {promised_ms} ms", flush=True)
        return {"promised_ms": promised_ms, **await by_load(traffic, setting)}


async def run() -> dict[str, Any]:
    """Two mock engines with a time model; `predictions_cpu` measures the CPU engine."""
    asked = settings("two mock engines", "mock", engines=2, streams=48)
    return {setting.title: await measured(setting) for setting in asked}
