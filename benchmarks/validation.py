"""Whether the simulator tells the truth: the same trace on a live stack and in simulation.

Mock engines, alone and with prefill and decode apart, and the CPU engine; simulated by time models that are fitted to
the steps they have reported.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.long_run import lengths
from benchmarks.overhead import BUILTIN, CACHE
from benchmarks.replay import Live, play
from benchmarks.shapes import make_model
from benchmarks.ways import Way
from sagellm_common.contracts.slo import Slo
from sagellm_simulation.fitting import fitted_spec
from sagellm_simulation.specs import MOCK, EngineSpec
from sagellm_simulation.trace import Trace, conversations
from sagellm_simulation.world import simulate

SLOWER = 3.0
"""Mock engines take so many times as long as usual: what is compared is the model, not how eight processes share two
cores."""

MOCK_ENV = {
    "SAGELLM_MOCK_STEP_MS": str(SLOWER * 1e3 * MOCK.base),
    "SAGELLM_MOCK_PREFILL_MS_PER_TOKEN": str(SLOWER * 1e3 * MOCK.prefill),
    "SAGELLM_MOCK_DECODE_MS_PER_SEQ": str(SLOWER * 1e3 * MOCK.decode),
    "SAGELLM_MAX_NUM_SEQS": "64",
}
REQUESTS = 240
QUANTILES = (0.5, 0.95)


MOCKS = (
    (6.0, Way("two mock engines, half load", engines=2)),
    (12.0, Way("two mock engines, nearly full", engines=2)),
    (8.0, Way("mock engines, prefill and decode apart", pd="threshold", roles=("prefill", "decode"), engines=2)),
    (
        8.0,
        Way(
            "two mock engines, SLOs and the policies for them",
            queue="slo_aware",
            router="predictive",
            pd="adaptive",
            engines=2,
            default_slo=Slo(ttft_ms=1500.0, itl_ms=60.0),
        ),
    ),
)
"""Requests a second of engines that take as long as usual, and how they are run."""

CPU = Way("CPU engine, 135M shape")
CPU_RATE = 1.2


def simulated(engines: tuple[EngineSpec, ...], trace: Trace, way: Way) -> dict[str, list[float]]:
    """The same in simulation."""
    result = simulate(way.scenario(engines), trace)
    done = [item for item in result.ended if item.phase == "finished"]
    return {
        "ttft": [1e3 * item.ttft_s for item in done if item.ttft_s is not None],
        "itl": [1e3 * item.itl_s for item in done if item.itl_s is not None],
    }


def compared(live: dict[str, list[float]], sim: dict[str, list[float]]) -> dict[str, Any]:
    """Quantiles of both, and simulated over live; raises SystemExit if they did not answer equally many."""
    if len(live["ttft"]) != len(sim["ttft"]):
        raise SystemExit(f"{len(live['ttft'])} were answered live, {len(sim['ttft'])} in simulation")
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


def fitted(live: Live) -> tuple[EngineSpec, ...]:
    """Engines that compute as those of the stack have reported."""
    return tuple(fitted_spec(registration, live.steps[name]) for name, registration in live.registrations.items())


async def beside(way: Way, backend: str, model: str, env: dict[str, str], trace: Trace) -> dict[str, Any]:
    """Play a trace on a live stack and in simulation."""
    async with way.running(backend, model, env) as stack:
        live = await play(stack, Path(model).name, 1000, trace)
    found = compared(live.times(), simulated(fitted(live), trace, way))
    handed_over = sum(record.transfer_ms is not None for record in live.records.values())
    print(f"  {way.name}: {handed_over} of {len(live.records)} handed over; {found}", flush=True)
    return found


async def run() -> dict[str, Any]:
    """All stacks, live and simulated."""
    found = {
        way.name: await beside(way, "mock", "mock-model", MOCK_ENV, chats(rate / SLOWER, 2.0, 1)) for rate, way in MOCKS
    }
    folder = make_model("smol135", CACHE / "smol135", BUILTIN)
    cpu = await beside(CPU, "cpu", str(folder), {}, chats(CPU_RATE, 1.0, 2))
    goals = {
        "mock": max(abs(row["ratio"] - 1.0) for rows in found.values() for row in rows.values()),
        "cpu_median": max(abs(cpu[f"{name}_p50"]["ratio"] - 1.0) for name in ("ttft", "itl")),
    }
    stacks = {**found, CPU.name: cpu}
    return {"stacks": stacks, "goals": {name: round(value, 3) for name, value in goals.items()}}
