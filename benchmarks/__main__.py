"""Run all benchmarks, or those named: `python -m benchmarks [NAME …]`; keeps what was measured in `results/`."""

import argparse
import asyncio
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.goals import RESULTS, load_results, table
from benchmarks.machine import describe

NAMES = (
    "start",
    "idle",
    "streams",
    "overhead",
    "disconnect",
    "scheduler_core",
    "fifty_engines",
    "quality",
    "cpu_engine",
    "long_run",
    "predictions",
    "predictions_cpu",
    "validation",
    "scenarios",
    "separation",
)
TRAINING = Path(__file__).parents[1] / "training"
"""Where the built-in model's corpus and judges are; they are no installed package."""


def measure(name: str) -> dict[str, Any]:
    """Run one benchmark module's `run()`."""
    result = importlib.import_module(f"benchmarks.{name}").run()
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


def main() -> None:
    """Parse the command line, measure, write one file per benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=NAMES)
    RESULTS.mkdir(exist_ok=True)
    sys.path.append(str(TRAINING))
    for name in parser.parse_args().names or NAMES:
        start = time.monotonic()
        print(f"{name} …", flush=True)
        result = {"benchmark": name, "machine": describe(), "result": measure(name)}
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(f"{json.dumps(result['result'], indent=1)}\n{name}: {time.monotonic() - start:.0f} s", flush=True)
    print(f"\n{table(load_results())}\n\n`python -m tools.make_benchmarks` writes the documents.")


if __name__ == "__main__":
    main()
