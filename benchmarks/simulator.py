"""How fast the simulator is: 12,000 requests of Azure's conversations through 16 engines, on one core.

`python -m benchmarks.simulator --traces FOLDER [--rounds 5]`.
"""

import argparse
import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.goals import RESULTS
from benchmarks.machine import describe
from sagellm_common.contracts.slo import Slo
from sagellm_simulation.specs import parse_engines
from sagellm_simulation.trace import Trace, load
from sagellm_simulation.world import Scenario, simulate

REQUESTS, ENGINES, PER_S = 12_000, "16*h200-8b", 160.0
PDS = ("off", "adaptive")


def seconds(trace: Trace, pd: str) -> float:
    """How long one run takes, its garbage included."""
    scenario = Scenario(engines=parse_engines(ENGINES), queue="slo_aware", pd=pd, slo=Slo(ttft_ms=2000.0, itl_ms=30.0))
    gc.collect()
    start = time.perf_counter()
    result = simulate(scenario, trace)
    took = time.perf_counter() - start
    if len(result.ended) != REQUESTS:
        raise RuntimeError(f"{len(result.ended)} requests have ended")
    return took


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    trace = load(asked.traces / "AzureLLMInferenceTrace_conv.csv").first(REQUESTS).at_rate(PER_S)
    rounds = {pd: [round(seconds(trace, pd), 2) for _ in range(asked.rounds)] for pd in PDS}
    result: dict[str, Any] = {pd: {"seconds": statistics.median(took), "rounds": took} for pd, took in rounds.items()}
    print(json.dumps(result, indent=1))
    kept = {"benchmark": "simulator", "machine": describe(), "result": result}
    (RESULTS / "simulator.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
