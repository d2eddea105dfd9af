"""What prefill/decode separation gains: a fleet in simulation, and two CPU engines for the mechanism.

In simulation, 16 engines on Azure's conversations: the highest load within the SLO, and at equal load the latencies and
the use of engines. On the CPU, chats with long documents among them on two engines of one thread each.
`python -m benchmarks.separation --traces FOLDER` runs the simulation, `python -m benchmarks separation` the rest.
"""

import argparse
import json
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goals import RESULTS
from benchmarks.grid import ORDINARY, OURS, Policy
from benchmarks.machine import describe
from benchmarks.overhead import BUILTIN, CACHE
from benchmarks.replay import Live, play
from benchmarks.search import highest
from benchmarks.shapes import make_model
from benchmarks.stack import running
from sagellm_common.contracts.slo import Slo
from sagellm_simulation.report import Summary, summarise
from sagellm_simulation.specs import parse_engines
from sagellm_simulation.trace import Trace, TraceRequest, load
from sagellm_simulation.world import Scenario, simulate

TRACE = "AzureLLMInferenceTrace_conv.csv"
REQUESTS = 6000
SLOS = {"tight": Slo(ttft_ms=500.0, itl_ms=15.0), "loose": Slo(ttft_ms=2000.0, itl_ms=30.0)}
BOTH, ROLES = "16*h200-8b", "6*h200-8b:prefill,10*h200-8b:decode"
WAYS = {
    ORDINARY: Policy("load_balanced", is_paced=False),
    "fixed roles, no pace": Policy("load_balanced", pd="threshold", is_split=True, is_paced=False),
    "no separation": Policy("load_balanced"),
    "fixed roles": Policy("load_balanced", pd="threshold", is_split=True),
    OURS: Policy("predictive", "slo_aware", "adaptive"),
}
"""Without a pace engines compute as much of a prompt as fits into a step, whatever is promised to the answers."""

KEPT = RESULTS / "separation_fleet.json"


def run_at(way: str, slo: Slo, trace: Trace, rate: float) -> Summary:
    """Simulate one load."""
    policy = WAYS[way]
    scenario = Scenario(
        engines=parse_engines(ROLES if policy.is_split else BOTH),
        router=policy.router,
        queue=policy.queue,
        pd=policy.pd,
        slo=slo if policy.is_paced else Slo(ttft_ms=slo.ttft_ms),
    )
    return summarise(simulate(scenario, trace.at_rate(rate)), slo)


def capacity(task: tuple[Path, str, str]) -> dict[str, Any]:
    """The highest load at which 95 % of the requests meet the SLO, and what it is like there."""
    folder, name, way = task
    trace, slo = load(folder / TRACE).first(REQUESTS), SLOS[name]
    rate, found = highest(lambda at: run_at(way, slo, trace, at), 150.0)
    return {"slo": name, "way": way, "per_s": round(rate, 2), **found.as_dict()}


def at_equal_load(task: tuple[Path, str, str, float]) -> dict[str, Any]:
    """What a load is like."""
    folder, name, way, rate = task
    trace = load(folder / TRACE).first(REQUESTS)
    return {"slo": name, "way": way, "per_s": rate, **run_at(way, SLOS[name], trace, rate).as_dict()}


def fleet(folder: Path, processes: int) -> dict[str, Any]:
    """Capacities, and all ways at the capacity of the first."""
    tasks = [(folder, name, way) for name in SLOS for way in WAYS]
    with ProcessPoolExecutor(processes) as pool:
        capacities = list(pool.map(capacity, tasks))
        base = {row["slo"]: row["per_s"] for row in capacities if row["way"] == ORDINARY}
        equal = list(pool.map(at_equal_load, [(*task, base[task[1]]) for task in tasks]))
    return {"capacity": capacities, "equal_load": equal}


# two CPU engines


def documents(count: int = 80, per_s: float = 1.0) -> Trace:
    """Chats, and every fifth a document of 1,500 tokens."""
    chance = random.Random(5)
    at, requests = 0.0, []
    for number in range(count):
        at += chance.expovariate(per_s)
        prompt = 1500 if number % 5 == 0 else chance.randrange(40, 160)
        requests.append(
            TraceRequest(request_id=f"r{number}", at=at, prompt_tokens=prompt, output_tokens=chance.randrange(40, 90))
        )
    return Trace("documents", requests)


def seen_of(live: Live, trace: Trace) -> dict[str, Any]:
    """Throughput, latencies, use of the engines, hand-overs."""
    times = live.times()
    busy = sum(step.duration_s for steps in live.steps.values() for step in steps)
    gaps = np.array(times["itl"])
    return {
        "tokens_per_s": round(sum(r.output_tokens for r in trace.requests) / live.seconds, 1),
        "ttft_p50_ms": round(float(np.quantile(times["ttft"], 0.5)), 1),
        "ttft_p99_ms": round(float(np.quantile(times["ttft"], 0.99)), 1),
        "itl_p50_ms": round(float(np.quantile(gaps, 0.5)), 1),
        "itl_p99_ms": round(float(np.quantile(gaps, 0.99)), 1),
        "utilisation": round(busy / (live.seconds * len(live.registrations)), 3),
        "handed_over": sum(record.transfer_ms is not None for record in live.records.values()),
    }


async def run() -> dict[str, Any]:
    """Two CPU engines with the 135M shape: both do both, or one prefills long prompts for the other."""
    folder = make_model("smol135", CACHE / "smol135", BUILTIN)
    trace, found = documents(), {}
    for name, roles, pd in (
        ("no separation", (), "off"),
        ("separated by threshold", ("prefill", "decode"), "threshold"),
        ("both do both, adaptive", ("hybrid", "hybrid"), "adaptive"),
    ):
        env = {"SAGELLM_KV_TRANSFER": "nixl" if pd != "off" else "none"}
        async with running(
            backend="cpu", model=str(folder), engines=2, router="predictive", roles=roles, pd=pd, env=env
        ) as stack:
            found[name] = seen_of(await play(stack, "smol135", 1000, trace), trace)
        print(f"  {name}: {found[name]}", flush=True)
    return found


def main() -> None:
    """Simulate the fleet and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    result = fleet(asked.traces, asked.processes)
    print(json.dumps(result, indent=1))
    kept = {"benchmark": "separation_fleet", "machine": describe(), "result": result}
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
