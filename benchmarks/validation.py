"""Whether the simulator tells the truth: the same trace on a live stack and in simulation.

Mock engines, alone and with prefill and decode apart, and the CPU engine; simulated by time models that are fitted to
the steps they have reported.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.long_run import lengths
from benchmarks.overhead import BUILTIN, CACHE
from benchmarks.replay import Live, play
from benchmarks.shapes import make_model
from benchmarks.stack import running
from sagellm_simulation.fitting import fitted_spec
from sagellm_simulation.specs import MOCK, EngineSpec
from sagellm_simulation.trace import Trace, conversations
from sagellm_simulation.world import Scenario, simulate

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


def fitted(live: Live) -> tuple[EngineSpec, ...]:
    """Engines that compute as those of the stack have reported."""
    return tuple(fitted_spec(registration, live.steps[name]) for name, registration in live.registrations.items())


async def run() -> dict[str, Any]:
    """Four stacks."""
    found = {}
    for name, rate, roles, pd in (
        ("two mock engines, half load", 6.0, (), "off"),
        ("two mock engines, nearly full", 12.0, (), "off"),
        ("mock engines, prefill and decode apart", 8.0, ("prefill", "decode"), "threshold"),
    ):
        trace = chats(rate / SLOWER, 2.0, 1)
        async with running(
            backend="mock", model="mock-model", engines=2, router="load_balanced", roles=roles, pd=pd, env=MOCK_ENV
        ) as stack:
            live = await play(stack, "mock-model", 1000, trace)
        found[name] = compared(live.times(), simulated(fitted(live), trace, pd))
        print(f"  {name}: {found[name]}", flush=True)
    folder = make_model("smol135", CACHE / "smol135", BUILTIN)
    trace = chats(1.2, 1.0, 2)
    async with running(backend="cpu", model=str(folder), router="load_balanced") as stack:
        live = await play(stack, "smol135", 1000, trace)
    cpu = compared(live.times(), simulated(fitted(live), trace, "off"))
    print(f"  CPU engine: {cpu}", flush=True)
    goals = {
        "mock": max(abs(row["ratio"] - 1.0) for rows in found.values() for row in rows.values()),
        "cpu_median": max(abs(cpu[f"{name}_p50"]["ratio"] - 1.0) for name in ("ttft", "itl")),
    }
    stacks = {**found, "CPU engine, 135M shape": cpu}
    return {"stacks": stacks, "goals": {name: round(value, 3) for name, value in goals.items()}}
