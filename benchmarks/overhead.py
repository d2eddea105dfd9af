"""What the services cost: the same workloads through HTTP and with the engine alone in its process."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import sagellm_registry
from benchmarks.shapes import WORKLOADS, make_model
from benchmarks.stack import measured_load, memory, pinned_environment, running

BUILTIN = Path(sagellm_registry.__file__).parent / "builtin" / "sage-tiny"
CACHE = Path(__file__).parents[1] / ".run" / "bench"
REPEATS = 3


def in_process(model: Path, threads: int, workloads: list[str], quantization: str | None) -> dict[str, Any]:
    """The median round of each workload with the engine alone, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.inprocess", str(model), "--threads", str(threads)]
    command += ["--repeats", str(REPEATS), "--workloads", *workloads]
    command += ["--quantization", quantization] if quantization else []
    out = subprocess.run(
        command, env={**pinned_environment(), "OMP_NUM_THREADS": str(threads)}, capture_output=True, check=True
    )
    rounds = json.loads(out.stdout)
    return {name: sorted(rounds[name], key=lambda r: r["tokens_per_s"])[REPEATS // 2] for name in workloads}


async def against_in_process(
    model: Path, name: str, workloads: list[str], quantization: str | None = None
) -> dict[str, Any]:
    """Workloads through HTTP with one engine thread, beside in-process with one and with two threads."""
    one, two = (in_process(model, threads, workloads, quantization) for threads in (1, 2))
    env = {"SAGELLM_THREADS": "1", "OMP_NUM_THREADS": "1", "SAGELLM_MAX_MODEL_LEN": "2048"}
    if quantization:
        env["SAGELLM_QUANTIZATION"] = quantization
    result: dict[str, Any] = {"model": name}
    async with running(model=str(model), backend="cpu", env={**env, "SAGELLM_SERVED_MODEL_NAME": name}) as stack:
        for workload in workloads:
            streams, prompt_tokens, max_tokens = WORKLOADS[workload]
            shape = {"streams": streams, "prompt_tokens": prompt_tokens, "max_tokens": max_tokens}
            http = await measured_load(stack, name, **shape, repeats=REPEATS)
            result[workload] = {
                "in_process_1_thread": one[workload],
                "in_process_2_threads": two[workload],
                "http": http,
                "ratio": round(http["tokens_per_s"] / one[workload]["tokens_per_s"], 3),
            }
        result["memory_mib"] = memory(stack)
    return result


async def run() -> dict[str, Any]:
    """The 135M shape in each class, then the built-in model."""
    smol135 = make_model("smol135", CACHE / "smol135", BUILTIN)
    return {
        "smol135": await against_in_process(smol135, "smol135", list(WORKLOADS)),
        "smol135-int8": await against_in_process(smol135, "smol135", list(WORKLOADS), "int8"),
        "smol135-int4": await against_in_process(smol135, "smol135", list(WORKLOADS), "int4"),
        "builtin": await against_in_process(BUILTIN, "sage-tiny", ["W2", "W3"]),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run()), indent=1))
