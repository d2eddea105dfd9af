"""How much load fleets bear within their SLOs, by policy: the simulator on production traces.

`python -m benchmarks.capacity --traces FOLDER [--minutes 90]`; the folder holds AzureLLMInferenceTrace_conv.csv,
AzureLLMInferenceTrace_code.csv and mooncake_synthetic.jsonl, as published. `benchmarks/grid.py` says what is compared.
All of it takes hours: rows are kept one by one, those measured the longest ago come first, and it may be stopped at any
time and run again to go on.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from benchmarks.capacity_report import figures
from benchmarks.goals import RESULTS
from benchmarks.grid import FLEETS, OVERLOAD, POLICIES, REQUESTS, SPLIT, TRACES, Cell, Policy, grid
from benchmarks.machine import describe
from benchmarks.search import ATTAINMENT, NEIGHBOURS, highest
from sagellm_common.contracts.slo import Slo
from sagellm_simulation.bound import bound, new_by_recency
from sagellm_simulation.bursts import burst_bound
from sagellm_simulation.report import Summary, summarise
from sagellm_simulation.specs import parse_engines
from sagellm_simulation.trace import Trace, load
from sagellm_simulation.world import Scenario, simulate

KEPT = RESULTS / "capacity.json"

Row = dict[str, Any]
Task = tuple[str, Cell, str, float | None]


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


def measure(task: Task) -> Row:
    """One policy in one cell: its capacity, looked for around `near`, and half as much again with admission."""
    folder, cell, name, near = task
    trace = load(Path(folder) / TRACES[cell.trace]).first(REQUESTS[cell.trace])
    engines, policy = parse_engines(FLEETS[cell.fleet]), POLICIES[name]
    mean = bound(engines, trace, cell.itl_ms / 1e3)
    limit = min(mean, burst_bound(engines, trace, cell.ttft_ms / 1e3, ATTAINMENT))
    by_recency = min(limit, bound(engines, trace, cell.itl_ms / 1e3, new_by_recency))
    rate, at_capacity = highest(lambda at: run(cell, policy, trace, at), near or 0.4 * limit)
    over = run(cell, policy, trace, OVERLOAD * rate, admission=True)
    return {
        "cell": cell.name,
        "trace": cell.trace,
        "policy": name,
        "bound": round(limit, 3),
        "bound_of_means": round(mean, 3),
        "bound_by_recency": round(by_recency, 3),
        "capacity": round(rate, 3),
        "goodput": round(at_capacity.goodput, 3),
        "at_capacity": at_capacity.as_dict(),
        "overload": over.as_dict(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "neighbours": len(NEIGHBOURS),
    }


def kept_rows() -> dict[tuple[str, str], Row]:
    """What has been measured, by cell and policy."""
    rows = json.loads(KEPT.read_text())["result"]["rows"] if KEPT.exists() else []
    return {(row["cell"], row["policy"]): row for row in rows}


def keep(row: Row) -> None:
    """Put a row in the place of the one that was measured before."""
    known = kept_rows() | {(row["cell"], row["policy"]): row}
    rows = [known[key] for cell in grid() for name in POLICIES if (key := (cell.name, name)) in known]
    result = {"rows": rows, "goals": figures({"rows": rows})}
    KEPT.write_text(json.dumps({"benchmark": "capacity", "machine": describe(), "result": result}, indent=1) + "\n")


def oldest_first(folder: Path, cells: str, policies: list[str]) -> list[Task]:
    """What is asked for, and for each the load that was borne the last time: where to begin."""
    rows = kept_rows()
    asked = [(cell, name) for cell in grid() if cells in cell.name for name in policies]
    asked.sort(key=lambda each: rows.get((each[0].name, each[1]), {}).get("date", ""))
    return [(str(folder), cell, name, rows.get((cell.name, name), {}).get("capacity")) for cell, name in asked]


def measured(tasks: list[Task], processes: int, until: float) -> Iterator[Row]:
    """Measure, some at once; begin no more when the time is up."""
    left, running = iter(tasks), set[Future[Row]]()
    with ProcessPoolExecutor(processes) as pool:
        while True:
            while len(running) < processes and time.monotonic() < until and (task := next(left, None)) is not None:
                running.add(pool.submit(measure, task))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (each.result() for each in done)


def main() -> None:
    """Measure the grid, or the oldest of it, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing more after so long")
    parser.add_argument("--only", default="", help="cells whose names contain this")
    parser.add_argument("--policies", default="", help="names, separated by semicolons")
    asked = parser.parse_args()
    tasks = oldest_first(asked.traces, asked.only, asked.policies.split(";") if asked.policies else list(POLICIES))
    until = time.monotonic() + 60.0 * asked.minutes
    for number, row in enumerate(measured(tasks, asked.processes, until), 1):
        keep(row)
        share = row["goodput"] / row["bound"]
        text = f"{row['cell']:42} {row['policy']:24} {row['goodput']:8.2f}/s in time, {share:.0%} of the bound"
        print(f"{number:3} of {len(tasks)}  {text}", flush=True)


if __name__ == "__main__":
    main()
