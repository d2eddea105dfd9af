"""How far off the scheduler's predictions are on live stacks, by load: time to the first token and time per token.

Requests of conversation lengths (Azure, scaled) arrive by chance (Poisson) at a share of the highest rate that the
stack sustains; every decision record says what was predicted and what came.
"""

import asyncio
import random
import statistics
import time
from typing import Any

import numpy as np

from benchmarks.long_run import lengths
from benchmarks.overhead import BUILTIN, CACHE
from benchmarks.peers.session import prompts
from benchmarks.shapes import make_model
from benchmarks.stack import running
from sagellm.client.nats_async import AsyncNatsClient
from sagellm.launcher.stack import Stack
from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.decisions import DecisionRecord
from sagellm_common.settings import BusSettings

LOADS = (0.3, 0.5, 0.7, 0.9)
WARM_UP_S, LEVEL_S, FULL_S = 20.0, 60.0, 20.0
FULL_STREAMS = 48
MOCK = {
    "SAGELLM_MOCK_STEP_MS": "8",
    "SAGELLM_MOCK_PREFILL_MS_PER_TOKEN": "0.1",
    "SAGELLM_MOCK_DECODE_MS_PER_SEQ": "0.2",
}


class Traffic:
    """Requests to one stack, and the records of those that have ended."""

    def __init__(self, client: AsyncNatsClient, model: str, vocab: int) -> None:
        self._client, self._model, self._vocab = client, model, vocab
        self._lengths = lengths()
        self._number = 0
        self.records: list[DecisionRecord] = []

    def recorded(self, record: DecisionRecord, received: Received) -> None:
        """Take a decision record from the bus."""
        if record.outcome == "finished":
            self.records.append(record)

    async def request(self) -> None:
        """Send the next request and wait for its end."""
        self._number += 1
        prompt, generated = self._lengths[self._number % len(self._lengths)]
        ids = [token % self._vocab for token in prompts(1, prompt, self._number)[0]]
        await self._client.generate(
            ids, model=self._model, max_tokens=generated, ignore_eos=True, temperature=0.8, seed=self._number
        )

    async def full(self, seconds: float) -> float:
        """Keep the stack full; return the requests a second that it ends."""
        end = time.monotonic() + seconds
        done = 0

        async def stream() -> None:
            nonlocal done
            while time.monotonic() < end:
                await self.request()
                done += time.monotonic() < end

        await asyncio.gather(*(stream() for _ in range(FULL_STREAMS)))
        return done / seconds

    async def at_rate(self, per_s: float, seconds: float, seed: int) -> None:
        """Send requests at random times for so long, and wait for the last to end."""
        chance = random.Random(seed)
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < end:
                group.create_task(self.request())
                await asyncio.sleep(chance.expovariate(per_s))


async def by_load(stack: Stack, model: str, vocab: int) -> dict[str, Any]:
    """Find the highest rate, then measure at shares of it."""
    bus = await Bus.connect(BusSettings(nats_url=stack.plan.nats_url), "bench")
    client = AsyncNatsClient(stack.plan.nats_url)
    try:
        traffic = Traffic(client, model, vocab)
        await bus.subscribe(bus.settings.subjects.decision("*"), DecisionRecord, traffic.recorded)
        most = await traffic.full(FULL_S)
        levels = {}
        for number, load in enumerate(LOADS):
            await traffic.at_rate(most * load, WARM_UP_S, number)
            traffic.records.clear()
            await traffic.at_rate(most * load, LEVEL_S, 100 + number)
            levels[f"{load:.0%}"] = _errors(traffic.records)
            print(f"  {model} at {load:.0%} of {most:.2f} requests/s: {levels[f'{load:.0%}']}", flush=True)
        return {"requests_per_s_at_full_load": round(most, 2), "levels": levels}
    finally:
        await client.aclose()
        await bus.close()


def _errors(records: list[DecisionRecord]) -> dict[str, float]:
    """Relative errors of the predictions: |measured - predicted| / measured."""
    ttft = [abs(record.ttft_error) for record in records if record.ttft_error is not None]
    itl = [abs(record.itl_error) for record in records if record.itl_error is not None]
    return {
        "requests": len(records),
        "ttft_p50_ms": round(statistics.median(record.ttft_ms or 0.0 for record in records), 1),
        "ttft_error_p50": round(float(np.quantile(ttft, 0.5)), 3),
        "ttft_error_p90": round(float(np.quantile(ttft, 0.9)), 3),
        "itl_error_p50": round(float(np.quantile(itl, 0.5)), 3),
        "itl_error_p90": round(float(np.quantile(itl, 0.9)), 3),
    }


async def run() -> dict[str, Any]:
    """Two mock engines with a time model, then the CPU engine with the 135M shape."""
    async with running(backend="mock", model="mock-model", engines=2, router="predictive", env=MOCK) as stack:
        mock = await by_load(stack, "mock-model", 1000)
    folder = make_model("smol135", CACHE / "smol135", BUILTIN)
    async with running(backend="cpu", model=str(folder), router="predictive") as stack:
        cpu = await by_load(stack, "smol135", 1000)
    return {"two mock engines": mock, "CPU engine, 135M shape": cpu}
