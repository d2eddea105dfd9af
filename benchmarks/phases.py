"""Where the time of a step goes: `python -m benchmarks.phases FOLDER [--options JSON] [--threads N]`."""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.session import WORKLOADS, prompts
from sagellm_engine.backends.cpu import MAX_BATCH_TOKENS
from sagellm_engine.backends.native_loader import load_native_runner
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.types import EngineRequest, SamplingParams
from sagellm_engine.native.abi import Phase


def profile(folder: Path, workload: str, threads: int, **options: Any) -> dict[str, dict[str, float]]:
    """Milliseconds of each part, for prefill and for decode: `steps`, `step`, `outside` of the kernels, each phase.

    Means over the steps of one kind; the first run of the workload is not counted.
    """
    number, length, max_tokens = WORKLOADS[workload]
    config = EngineConfig(
        model_path=folder,
        backend="cpu",
        num_threads=threads,
        max_model_len=8192,
        kv_cache_memory_bytes=1 << 30,
        prefix_cache=False,
        **options,
    )
    runner = load_native_runner(config, max_batch_tokens=MAX_BATCH_TOKENS, free_bytes=lambda: 4 << 30)
    core = EngineCore(config, runner)
    found: dict[str, dict[str, float]] = {}
    for seed in range(2):
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        for index, ids in enumerate(prompts(number, length, seed)):
            core.submit(EngineRequest(key=(f"{seed}-{index}", 0), prompt_token_ids=ids, sampling=sampling), 0.0)
        found = {"prefill": _empty(), "decode": _empty()}
        decoding = 0
        while core.has_work():
            seconds = runner.count_seconds()
            began = time.perf_counter()
            output = core.step(0.0)
            took = time.perf_counter() - began
            kind = "decode" if decoding == number else "prefill"
            decoding = max(decoding, sum(len(o.token_ids) for o in output.tokens))
            _add(found[kind], took, {phase.name.lower(): float(seconds[phase]) for phase in Phase})
    core.close()
    return {kind: _means(sums) for kind, sums in found.items()}


def _empty() -> dict[str, float]:
    return dict.fromkeys(("steps", "step", "outside", *(phase.name.lower() for phase in Phase)), 0.0)


def _add(sums: dict[str, float], took: float, phases: dict[str, float]) -> None:
    for name, seconds in phases.items():
        sums[name] += seconds
    sums["steps"] += 1
    sums["step"] += took
    sums["outside"] += took - sum(phases.values())


def _means(sums: dict[str, float]) -> dict[str, float]:
    steps = sums.pop("steps")
    return {"steps": steps, **{name: round(1e3 * seconds / max(steps, 1), 3) for name, seconds in sums.items()}}


def main() -> None:
    """Parse the command line, run W1, W3 and W4, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--options", type=json.loads, default={}, help="of the engine's configuration")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workloads", nargs="+", default=["W1", "W3", "W4"], choices=WORKLOADS)
    options = parser.parse_args()
    for workload in options.workloads:
        for kind, parts in profile(options.model, workload, options.threads, **options.options).items():
            shown = "  ".join(f"{name} {value:g}" for name, value in parts.items())
            print(f"{workload} {kind}: {shown}", flush=True)


if __name__ == "__main__":
    main()
