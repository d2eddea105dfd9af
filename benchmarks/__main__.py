"""Run all benchmarks, or those named: `python -m benchmarks [NAME …]`; keeps what was measured in `results/`."""

import argparse
import asyncio
import importlib
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe

RESULTS = Path(__file__).parent / "results"
NAMES = ("start", "scheduler_core", "services", "disconnect", "fifty_engines")


def measure(name: str) -> dict[str, Any]:
    """Run one benchmark module's `run()`."""
    result = importlib.import_module(f"benchmarks.{name}").run()
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


def main() -> None:
    """Parse the command line, measure, write one file per benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], default=list(NAMES))
    RESULTS.mkdir(exist_ok=True)
    for name in parser.parse_args().names:
        start = time.monotonic()
        print(f"{name} …", flush=True)
        result = {"benchmark": name, "machine": describe(), "result": measure(name)}
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(f"{json.dumps(result['result'], indent=1)}\n{name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
