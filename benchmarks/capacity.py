"""How much load fleets bear within their SLOs, by policy: the simulator on production traces.

`python -m benchmarks.capacity --traces FOLDER [--processes 2]`; the folder holds AzureLLMInferenceTrace_conv.csv,
AzureLLMInferenceTrace_code.csv and mooncake_synthetic.jsonl, as published. The grid below was fixed before the runs.
"""

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.goals import RESULTS
from benchmarks.machine import describe
from sagellm_common.contracts.slo import Slo
from sagellm_simulation.bound import bound
from sagellm_simulation.report import Summary, summarise
from sagellm_simulation.specs import parse_engines
from sagellm_simulation.trace import Trace, load
from sagellm_simulation.world import Scenario, simulate

ATTAINMENT = 0.95
REQUESTS = 2000
PRECISION = 1.03
OVERLOAD = 1.5

TRACES = {
    "conversation": "AzureLLMInferenceTrace_conv.csv",
    "code": "AzureLLMInferenceTrace_code.csv",
    "mooncake": "mooncake_synthetic.jsonl",
}
FLEETS = {"4 equal": "4*h200-8b", "2 + 2 of two kinds": "2*h200-8b,2*h100-8b"}
SLOS = {
    "conversation": ((500.0, 15.0), (2000.0, 30.0)),
    "code": ((500.0, 15.0), (2000.0, 30.0)),
    "mooncake": ((4000.0, 20.0), (8000.0, 40.0)),
}
"""Time to the first token and from token to token, ms: one tight, one loose."""

SPLIT = {"4*h200-8b": "2*h200-8b:prefill,2*h200-8b:decode", "2*h200-8b,2*h100-8b": "2*h200-8b:prefill,2*h100-8b:decode"}


@dataclass(frozen=True, slots=True)
class Policy:
    """What decides; `is_split`: half of the engines prefill, half decode."""

    router: str
    queue: str = "fifo"
    pd: str = "off"
    is_split: bool = False


OURS = "sageLLM"
POLICIES = {
    "random": Policy("random"),
    "round robin": Policy("round_robin"),
    "least loaded": Policy("load_balanced"),
    "cache-aware": Policy("cache_aware"),
    "PD by threshold": Policy("load_balanced", pd="threshold"),
    "PD by threshold, roles": Policy("load_balanced", pd="threshold", is_split=True),
    OURS: Policy("predictive", "slo_aware", "adaptive"),
}
WEAK = ("random", "round robin", "PD by threshold")


@dataclass(frozen=True, slots=True)
class Cell:
    """One fleet under one trace and SLO."""

    trace: str
    fleet: str
    ttft_ms: float
    itl_ms: float

    @property
    def slo(self) -> Slo:
        return Slo(ttft_ms=self.ttft_ms, itl_ms=self.itl_ms)

    @property
    def name(self) -> str:
        return f"{self.trace}, {self.fleet}, {self.ttft_ms:g}/{self.itl_ms:g} ms"


def grid() -> list[Cell]:
    """All cells."""
    return [Cell(trace, fleet, *slo) for trace in TRACES for fleet in FLEETS for slo in SLOS[trace]]


def run(cell: Cell, policy: Policy, trace: Trace, rate: float, *, admission: bool = False) -> Summary:
    """Simulate one load."""
    engines = FLEETS[cell.fleet]
    scenario = Scenario(
        engines=parse_engines(SPLIT[engines] if policy.is_split else engines),
        router=policy.router,
        queue=policy.queue,
        pd=policy.pd,
        slo=cell.slo,
        admission_slack=1.0 if admission else None,
    )
    scaled = trace.at_rate(rate)
    return summarise(simulate(scenario, scaled.with_slo(cell.slo) if admission else scaled), cell.slo)


def capacity(cell: Cell, policy: Policy, trace: Trace, start: float) -> tuple[float, Summary]:
    """Return the highest load, within 3 %, at which 95 % of the requests meet the SLO, and what it was like there."""
    low, high, best = 0.0, math.inf, None
    rate = start
    while high / max(low, 1e-9) > PRECISION and rate > 1e-3:
        found = run(cell, policy, trace, rate)
        if found.attainment >= ATTAINMENT:
            low, best = rate, found
        else:
            high = rate
        rate = math.sqrt(low * high) if low and high < math.inf else rate * (1.5 if low else 0.6)
    if best is None:
        raise RuntimeError(f"{cell.name}: no load is borne")
    return low, best


def measure(task: tuple[str, Cell, str]) -> dict[str, Any]:
    """One policy in one cell: its capacity, and half as much again with admission."""
    folder, cell, name = task
    trace = load(Path(folder) / TRACES[cell.trace]).first(REQUESTS)
    limit = bound(parse_engines(FLEETS[cell.fleet]), trace, cell.itl_ms / 1e3)
    rate, at_capacity = capacity(cell, POLICIES[name], trace, 0.5 * limit)
    over = run(cell, POLICIES[name], trace, OVERLOAD * rate, admission=True)
    return {
        "cell": cell.name,
        "trace": cell.trace,
        "policy": name,
        "bound": round(limit, 3),
        "capacity": round(rate, 3),
        "goodput": round(at_capacity.goodput, 3),
        "at_capacity": at_capacity.as_dict(),
        "overload": over.as_dict(),
    }


def main() -> None:
    """Run the grid and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="cells whose names contain this")
    parser.add_argument("--policies", default="", help="names, separated by commas; then nothing is kept")
    asked = parser.parse_args()
    names = asked.policies.split(",") if asked.policies else list(POLICIES)
    tasks = [(str(asked.traces), cell, name) for cell in grid() if asked.only in cell.name for name in names]
    start, rows = time.monotonic(), []
    with ProcessPoolExecutor(asked.processes) as pool:
        for row in pool.map(measure, tasks):
            rows.append(row)
            share = row["capacity"] / row["bound"]
            print(f"{row['cell']:48} {row['policy']:24} {row['capacity']:8.2f}/s, {share:.0%} of the bound", flush=True)
    print(f"{time.monotonic() - start:.0f} s")
    if not asked.only and not asked.policies:
        from benchmarks.capacity_report import figures  # which reads the grid from here

        result = {"rows": rows, "goals": figures({"rows": rows})}
        kept = {"benchmark": "capacity", "machine": describe(), "result": result}
        (RESULTS / "capacity.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
