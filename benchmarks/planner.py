"""A day of traffic under the planner: SLOs met, and engine-hours beside those of an oracle.

`python -m benchmarks.planner --traces FOLDER [--hours 24] [--processes 2]`. The day is composed of Azure's traces, four
streams of each, by seeded curves (`simulation/sagellm_simulation/day.py`). The oracle knows what comes and changes its
engines every quarter of an hour without any time to start them: it has the fewest with which 99 % of the requests that
arrive in that quarter of an hour are answered in time, found by simulation.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goals import RESULTS
from benchmarks.machine import describe
from sagellm_common.contracts.plan import FleetPlan
from sagellm_common.contracts.slo import Slo
from sagellm_scheduler.planner.core import PlannerConfig
from sagellm_simulation.day import HOUR_S, Curve, compose, history
from sagellm_simulation.scaling import Scaled, simulate_scaled
from sagellm_simulation.specs import L4_8B
from sagellm_simulation.trace import Trace, load
from sagellm_simulation.world import Result, Scenario, World

SLO = Slo(ttft_ms=5000.0, itl_ms=100.0)
GOAL = 0.99
START_S = 90.0
WINDOW_S, WARM_UP_S = 900.0, 120.0
DAYS_BEFORE = 7
SEED = 1
STREAMS = 4
CONVERSATION, CODE = Curve(mean=0.8, peak=15.0, swing=0.6), Curve(mean=0.2, peak=11.0, swing=0.8)
"""Requests a second of each of the four streams."""

FIRST_GUESS = 0.6
"""Engines for each request a second."""


def scenario(engines: int) -> Scenario:
    """So many engines under the policies that are the scheduler's own."""
    return Scenario(
        engines=(L4_8B,) * engines,
        router="predictive",
        queue="slo_aware",
        pd="off",
        slo=SLO,
        tick_s=0.2,
        heartbeat_s=1.0,
        drain_s=600.0,
    )


def traffic(folder: Path, hours: int) -> tuple[Trace, list[float]]:
    """The day, and the hours of the week before."""
    conversation = load(folder / "AzureLLMInferenceTrace_conv.csv")
    code = load(folder / "AzureLLMInferenceTrace_code.csv")
    parts = [(conversation, CONVERSATION)] * STREAMS + [(code, CODE)] * STREAMS
    return compose(parts, SEED, hours), history(parts, SEED, DAYS_BEFORE)


def planned(task: tuple[Path, int]) -> dict[str, Any]:
    """The day under the planner."""
    trace, before = traffic(*task)
    config = PlannerConfig(slo=SLO, attainment=GOAL, lead_s=START_S, hold_s=START_S, most=64)
    first = scenario(4)
    scaled = simulate_scaled(first, World(first, trace), config, start_s=START_S, hours=before)
    return {
        "requests": len(trace.requests),
        "attainment": round(attainment(scaled.result), 4),
        "dropped": sum(item.phase != "finished" for item in scaled.result.ended),
        "engine_hours": round(scaled.engine_hours, 2),
        "by_quarter": _by_quarter(scaled, task[1]),
    }


def attainment(result: Result, start_s: float = 0.0) -> float:
    """Share of the requests that arrived from a time on and were answered within the SLO."""
    asked = [item.met(SLO) for item in result.ended if item.asked.at >= start_s]
    return sum(asked) / max(1, len(asked))


def _by_quarter(scaled: Scaled, hours: int) -> list[dict[str, float]]:
    """Rate, engines wanted and SLOs met in each quarter of an hour."""
    count = int(hours * HOUR_S / WINDOW_S)
    met: list[list[bool]] = [[] for _ in range(count)]
    plans: list[list[FleetPlan]] = [[] for _ in range(count)]
    for item in scaled.result.ended:
        met[int(item.asked.at / WINDOW_S)].append(item.met(SLO))
    for at, plan in scaled.plans:
        if at < count * WINDOW_S:
            plans[int(at / WINDOW_S)].append(plan)
    return [
        {
            "rate": round(len(ends) / WINDOW_S, 3),
            "engines": round(sum(plan.count for plan in made) / max(1, len(made)), 2),
            "attainment": round(sum(ends) / max(1, len(ends)), 4),
        }
        for ends, made in zip(met, plans, strict=True)
    ]


class _TooMany(Exception):
    """So many requests are late that it does not matter what becomes of the others."""


def serves(engines: int, part: Trace, start_s: float) -> bool:
    """Whether so many engines answer enough of the requests in time that arrive from `start_s` on."""
    world = World(scenario(engines), part)
    asked = [request for request in part.requests if request.at >= start_s]
    latest = np.sort([r.at + ((SLO.ttft_ms or 0.0) + (SLO.itl_ms or 0.0) * r.output_tokens) / 1e3 for r in asked])
    met = checked = 0

    def check() -> None:
        nonlocal met, checked
        ended, checked = world.result.ended[checked:], len(world.result.ended)
        met += sum(item.met(SLO) for item in ended if item.asked.at >= start_s)
        if np.searchsorted(latest, world.kernel.now) - met > (1.0 - GOAL) * len(asked):
            raise _TooMany

    try:
        return attainment(world.run(check), start_s) >= GOAL
    except _TooMany:
        return False


def fewest(task: tuple[Path, int, int]) -> int:
    """The oracle's engines in a quarter of an hour."""
    folder, hours, number = task
    trace, _ = traffic(folder, hours)
    begin = number * WINDOW_S
    start = max(0.0, begin - WARM_UP_S)
    asked = [replace(r, at=r.at - start) for r in trace.requests if start <= r.at < begin + WINDOW_S]
    part = replace(trace, requests=asked)
    engines = max(1, round(FIRST_GUESS * len(asked) / (WINDOW_S + WARM_UP_S)))
    if serves(engines, part, begin - start):
        while engines > 1 and serves(engines - 1, part, begin - start):
            engines -= 1
        return engines
    while not serves(engines + 1, part, begin - start):
        engines += 1
    return engines + 1


def main() -> None:
    """Simulate, compare, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    with ProcessPoolExecutor(asked.processes) as pool:
        day = pool.submit(planned, (asked.traces, asked.hours))
        quarters = int(asked.hours * HOUR_S / WINDOW_S)
        least = []
        for engines in pool.map(fewest, [(asked.traces, asked.hours, number) for number in range(quarters)]):
            least.append(engines)
            print(f"quarter of an hour {len(least)} of {quarters}: the oracle has {engines} engines", flush=True)
        print("the planner's day …", flush=True)
        result = day.result()
    oracle = sum(least) * WINDOW_S / HOUR_S
    result |= {
        "oracle_engine_hours": oracle,
        "of_oracle": round(result["engine_hours"] / oracle, 3),
        "oracle_engines": least,
    }
    print(json.dumps({name: value for name, value in result.items() if name != "by_quarter"}, indent=1))
    if asked.hours == 24:
        kept = {"benchmark": "planner", "machine": describe(), "result": result}
        (RESULTS / "planner.json").write_text(json.dumps(kept, indent=1) + "\n")
    else:
        for quarter, engines in zip(result["by_quarter"], least, strict=True):
            print(quarter, engines)


if __name__ == "__main__":
    main()
