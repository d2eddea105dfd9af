"""Whether the simulator tells the truth: the same trace on a live stack and in simulation.

Mock engines, alone and with prefill and decode apart, and the CPU engine; simulated by time models that are fitted to
the steps they have reported.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.long_run import lengths
from benchmarks.overhead import BUILTIN, CACHE
from benchmarks.replay import Live, play
from benchmarks.shapes import make_model
from benchmarks.stack import running
from sagellm_common.contracts.slo import NO_SLO, Slo
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


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment, which gets so many requests a second; `slo` is promised to all."""

    name: str
    rate: float
    roles: tuple[str, ...] = ()
    queue: str = "fifo"
    router: str = "load_balanced"
    pd: str = "off"
    slo: Slo = NO_SLO

    @property
    def env(self) -> dict[str, str]:
        """What the services are told of it."""
        stated = {"SAGELLM_SLO_TTFT_MS": self.slo.ttft_ms, "SAGELLM_SLO_ITL_MS": self.slo.itl_ms}
        transfer = {} if self.pd == "off" else {"SAGELLM_KV_TRANSFER": "nixl"}
        return {**transfer, **{name: str(value) for name, value in stated.items() if value is not None}}


MOCKS = (
    Deployment("two mock engines, half load", 6.0),
    Deployment("two mock engines, nearly full", 12.0),
    Deployment("mock engines, prefill and decode apart", 8.0, roles=("prefill", "decode"), pd="threshold"),
    Deployment(
        "two mock engines, SLOs and the policies for them",
        8.0,
        queue="slo_aware",
        router="predictive",
        pd="adaptive",
        slo=Slo(ttft_ms=1500.0, itl_ms=60.0),
    ),
)
CPU = Deployment("CPU engine, 135M shape", 1.2)


def simulated(engines: tuple[EngineSpec, ...], trace: Trace, stack: Deployment) -> dict[str, list[float]]:
    """The same in simulation."""
    scenario = Scenario(engines=engines, queue=stack.queue, router=stack.router, pd=stack.pd, slo=stack.slo)
    result = simulate(scenario, trace)
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


async def beside(stack: Deployment, backend: str, model: str, trace: Trace) -> dict[str, Any]:
    """Play a trace on a live stack and in simulation."""
    is_mock = backend == "mock"
    async with running(
        backend=backend,
        model=model,
        engines=2 if is_mock else 1,
        queue=stack.queue,
        router=stack.router,
        roles=stack.roles,
        pd=stack.pd,
        env={**(MOCK_ENV if is_mock else {}), **stack.env},
    ) as live_stack:
        live = await play(live_stack, Path(model).name, 1000, trace)
    found = compared(live.times(), simulated(fitted(live), trace, stack))
    handed_over = sum(record.transfer_ms is not None for record in live.records.values())
    print(f"  {stack.name}: {handed_over} of {len(live.records)} handed over; {found}", flush=True)
    return found


async def run() -> dict[str, Any]:
    """All stacks, live and simulated."""
    found = {
        stack.name: await beside(stack, "mock", "mock-model", chats(stack.rate / SLOWER, 2.0, 1)) for stack in MOCKS
    }
    folder = make_model("smol135", CACHE / "smol135", BUILTIN)
    cpu = await beside(CPU, "cpu", str(folder), chats(CPU.rate, 1.0, 2))
    goals = {
        "mock": max(abs(row["ratio"] - 1.0) for rows in found.values() for row in rows.values()),
        "cpu_median": max(abs(cpu[f"{name}_p50"]["ratio"] - 1.0) for name in ("ttft", "itl")),
    }
    stacks = {**found, CPU.name: cpu}
    return {"stacks": stacks, "goals": {name: round(value, 3) for name, value in goals.items()}}
