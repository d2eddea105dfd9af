"""Whether the simulator tells the truth: the same trace on a live stack and in simulation.

Mock engines by their time model, alone and with prefill and decode apart; and the CPU engine, simulated by a time model
that is fitted to the steps it has reported.
"""

import asyncio
import time
from dataclasses import dataclass, replace
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
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.reports import EngineReport, StepSample
from sagellm_common.settings import BusSettings
from sagellm_simulation.fitting import fitted_spec
from sagellm_simulation.specs import MOCK, EngineSpec, parse_engines
from sagellm_simulation.trace import Trace, conversations
from sagellm_simulation.world import Scenario, simulate

MOCK_ENV = {
    "SAGELLM_MOCK_STEP_MS": str(1e3 * MOCK.base),
    "SAGELLM_MOCK_PREFILL_MS_PER_TOKEN": str(1e3 * MOCK.prefill),
    "SAGELLM_MOCK_DECODE_MS_PER_SEQ": str(1e3 * MOCK.decode),
    "SAGELLM_MAX_NUM_SEQS": "64",
}
REQUESTS = 240
QUANTILES = (0.5, 0.95)


@dataclass(slots=True)
class Live:
    """What a stack did with a trace."""

    records: list[DecisionRecord]
    steps: list[StepSample]
    registration: EngineRegistration

    def times(self) -> dict[str, list[float]]:
        """Time to the first token and from token to token, ms."""
        return {
            "ttft": [record.ttft_ms for record in self.records if record.ttft_ms is not None],
            "itl": [record.itl_ms for record in self.records if record.itl_ms is not None],
        }


async def play(stack: Stack, model: str, vocab: int, trace: Trace) -> Live:
    """Send the requests of a trace when they are due; return when all have ended."""
    bus = await Bus.connect(BusSettings(nats_url=stack.plan.nats_url), "bench")
    client = AsyncNatsClient(stack.plan.nats_url)
    records: list[DecisionRecord] = []
    steps: list[StepSample] = []

    def recorded(record: DecisionRecord, received: Received) -> None:
        if record.outcome == "finished":
            records.append(record)

    def reported(report: EngineReport, received: Received) -> None:
        steps.extend(report.steps)

    async def request(number: int, prompt: int, generated: int) -> None:
        ids = [token % vocab for token in prompts(1, prompt, number)[0]]
        await client.generate(ids, model=model, max_tokens=generated, ignore_eos=True, temperature=0.0)

    try:
        await bus.subscribe(bus.settings.subjects.decision("*"), DecisionRecord, recorded)
        await bus.subscribe(bus.settings.subjects.engine_metrics("*"), EngineReport, reported)
        bucket = await bus.bucket(bus.settings.subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
        registration = next(iter((await bucket.read_all(EngineRegistration)).values()))
        await request(10_000, 20, 4)
        records.clear()
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, asked in enumerate(trace.requests):
                await asyncio.sleep(max(0.0, start + asked.at - time.monotonic()))
                group.create_task(request(number, asked.prompt_tokens, asked.output_tokens))
        while len(records) < len(trace.requests):
            await asyncio.sleep(0.05)
        return Live(records, steps, registration)
    finally:
        await client.aclose()
        await bus.close()


def simulated(engines: tuple[EngineSpec, ...], trace: Trace, pd: str) -> dict[str, list[float]]:
    """The same in simulation."""
    result = simulate(Scenario(engines=engines, router="load_balanced", pd=pd), trace)
    done = [item for item in result.ended if item.phase == "finished"]
    return {
        "ttft": [1e3 * item.ttft_s for item in done if item.ttft_s is not None],
        "itl": [1e3 * item.itl_s for item in done if item.itl_s is not None],
    }


def compared(live: dict[str, list[float]], sim: dict[str, list[float]]) -> dict[str, Any]:
    """Quantiles of both, and simulated over live."""
    found: dict[str, Any] = {}
    for name in ("ttft", "itl"):
        for quantile in QUANTILES:
            one, two = (float(np.quantile(values, quantile)) for values in (live[name], sim[name]))
            found[f"{name}_p{round(100 * quantile)}"] = {
                "live_ms": round(one, 2),
                "simulated_ms": round(two, 2),
                "ratio": round(two / one, 3),
            }
    return found


def chats(rate: float, scale: float, seed: int) -> Trace:
    """Requests with the lengths of Azure's conversations, `scale` times as long, at random times."""
    made = conversations(REQUESTS, seed, rate)
    known = lengths()
    requests = [
        replace(
            request,
            prompt_tokens=max(2, int(scale * known[number % len(known)][0])),
            output_tokens=max(2, int(scale * known[number % len(known)][1])),
        )
        for number, request in enumerate(made.requests)
    ]
    return replace(made, requests=requests)


async def run() -> dict[str, Any]:
    """Three stacks."""
    found = {}
    for name, rate, roles, pd in (
        ("two mock engines, half load", 6.0, (), "off"),
        ("two mock engines, nearly full", 12.0, (), "off"),
        ("mock engines, prefill and decode apart", 8.0, ("prefill", "decode"), "threshold"),
    ):
        trace = chats(rate, 2.0, 1)
        async with running(
            backend="mock", model="mock-model", engines=2, router="load_balanced", roles=roles, pd=pd, env=MOCK_ENV
        ) as stack:
            live = await play(stack, "mock-model", 1000, trace)
        engines = parse_engines(",".join(f"mock:{role}" for role in roles or ("hybrid", "hybrid")))
        engines = tuple(replace(spec, max_num_seqs=64, max_model_len=32_768) for spec in engines)
        found[name] = compared(live.times(), simulated(engines, trace, pd))
        print(f"  {name}: {found[name]}", flush=True)
    folder = make_model("smol135", CACHE / "smol135", BUILTIN)
    trace = chats(1.2, 1.0, 2)
    async with running(backend="cpu", model=str(folder), router="load_balanced") as stack:
        live = await play(stack, "smol135", 1000, trace)
    spec = fitted_spec(live.registration, live.steps)
    cpu = compared(live.times(), simulated((spec,), trace, "off"))
    print(f"  CPU engine: {cpu}", flush=True)
    goals = {
        "mock": max(abs(row["ratio"] - 1.0) for rows in found.values() for row in rows.values()),
        "cpu_median": max(abs(cpu[f"{name}_p50"]["ratio"] - 1.0) for name in ("ttft", "itl")),
    }
    stacks = {**found, "CPU engine, 135M shape": cpu}
    return {"stacks": stacks, "goals": {name: round(value, 3) for name, value in goals.items()}}
