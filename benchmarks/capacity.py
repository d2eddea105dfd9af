"""How much load fleets bear within their SLOs, by policy: the simulator on production traces.

`python -m benchmarks.capacity --traces FOLDER [--processes 2]`; the folder holds AzureLLMInferenceTrace_conv.csv,
AzureLLMInferenceTrace_code.csv and mooncake_synthetic.jsonl, as published. `benchmarks/grid.py` says what is compared.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.capacity_report import figures
from benchmarks.goals import RESULTS
from benchmarks.grid import FLEETS, OVERLOAD, POLICIES, REQUESTS, SPLIT, TRACES, Cell, Policy, grid
from benchmarks.machine import describe
from benchmarks.search import ATTAINMENT, highest
from sagellm_common.contracts.slo import Slo
from sagellm_simulation.bound import bound
from sagellm_simulation.bursts import burst_bound
from sagellm_simulation.report import Summary, summarise
from sagellm_simulation.specs import parse_engines
from sagellm_simulation.trace import Trace, load
from sagellm_simulation.world import Scenario, simulate

KEPT = RESULTS / "capacity.json"


def run(cell: Cell, policy: Policy, trace: Trace, rate: float, *, admission: bool = False) -> Summary:
    """Simulate one load."""
    engines = FLEETS[cell.fleet]
    promised = cell.slo if policy.is_paced else Slo(ttft_ms=cell.ttft_ms)
    scenario = Scenario(
        engines=parse_engines(SPLIT[engines] if policy.is_split else engines),
        router=policy.router,
        queue=policy.queue,
        pd=policy.pd,
        slo=promised,
        admission_slack=1.0 if admission else None,
    )
    scaled = trace.at_rate(rate)
    return summarise(simulate(scenario, scaled.with_slo(promised) if admission else scaled), cell.slo)


def measure(task: tuple[str, Cell, str, float | None]) -> dict[str, Any]:
    """One policy in one cell: its capacity, looked for around `near`, and half as much again with admission."""
    folder, cell, name, near = task
    trace = load(Path(folder) / TRACES[cell.trace]).first(REQUESTS[cell.trace])
    engines, policy = parse_engines(FLEETS[cell.fleet]), POLICIES[name]
    mean = bound(engines, trace, cell.itl_ms / 1e3)
    limit = min(mean, burst_bound(engines, trace, cell.ttft_ms / 1e3, ATTAINMENT))
    rate, at_capacity = highest(lambda at: run(cell, policy, trace, at), near or 0.4 * limit)
    over = run(cell, policy, trace, OVERLOAD * rate, admission=True)
    return {
        "cell": cell.name,
        "trace": cell.trace,
        "policy": name,
        "bound": round(limit, 3),
        "bound_of_means": round(mean, 3),
        "capacity": round(rate, 3),
        "goodput": round(at_capacity.goodput, 3),
        "at_capacity": at_capacity.as_dict(),
        "overload": over.as_dict(),
    }


def kept_loads() -> dict[tuple[str, str], float]:
    """What each policy bore in each cell when it was last measured: where to begin."""
    if not KEPT.exists():
        return {}
    rows = json.loads(KEPT.read_text())["result"]["rows"]
    return {(row["cell"], row["policy"]): row["capacity"] for row in rows}


def main() -> None:
    """Run the grid and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="cells whose names contain this")
    parser.add_argument("--policies", default="", help="names, separated by semicolons; then nothing is kept")
    asked = parser.parse_args()
    names = asked.policies.split(";") if asked.policies else list(POLICIES)
    near = kept_loads()
    tasks = [
        (str(asked.traces), cell, name, near.get((cell.name, name)))
        for cell in grid()
        if asked.only in cell.name
        for name in names
    ]
    start, rows = time.monotonic(), []
    with ProcessPoolExecutor(asked.processes) as pool:
        for row in pool.map(measure, tasks):
            rows.append(row)
            share = row["capacity"] / row["bound"]
            print(f"{row['cell']:48} {row['policy']:24} {row['capacity']:8.2f}/s, {share:.0%} of the bound", flush=True)
    print(f"{time.monotonic() - start:.0f} s")
    if not asked.only and not asked.policies:
        result = {"rows": rows, "goals": figures({"rows": rows})}
        kept = {"benchmark": "capacity", "machine": describe(), "result": result}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
