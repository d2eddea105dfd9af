"""What the services cost: through HTTP against the engine in-process, many streams, an idle request, memory."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

import sagellm_registry
from benchmarks.shapes import WORKLOADS, make_smol135
from benchmarks.stack import measured_load, memory, pinned_environment, running

BUILTIN = Path(sagellm_registry.__file__).parent / "builtin" / "sage-tiny"
CACHE = Path(__file__).parents[1] / ".run" / "bench"
REPEATS = 5


async def many_streams() -> dict[str, Any]:
    """200 concurrent HTTP streams from a mock engine that takes no time."""
    env = {"SAGELLM_MAX_NUM_SEQS": "256"}
    async with running(backend="mock", model="mock-model", env=env) as stack:
        result = await measured_load(
            stack, "mock-model", streams=200, prompt_tokens=128, max_tokens=256, repeats=REPEATS
        )
        return {**result, "memory_mib": memory(stack)}


async def idle_ttft(requests: int = 300) -> dict[str, Any]:
    """One request after the other, one token each, from a mock engine that takes no time."""
    async with running(backend="mock", model="mock-model") as stack, httpx.AsyncClient() as client:
        body = {"model": "mock-model", "prompt": [11, 12, 13, 14], "max_tokens": 1, "temperature": 0, "stream": True}
        times = [await _first_chunk(client, stack.plan.http_url, body) for _ in range(requests + 20)][20:]
        times.sort()
        return {
            "ttft_p50_ms": round(statistics.median(times) * 1e3, 2),
            "ttft_p99_ms": round(times[int(len(times) * 0.99)] * 1e3, 2),
            "requests": requests,
            "memory_mib": memory(stack),
        }


async def _first_chunk(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> float:
    start = time.perf_counter()
    async with client.stream("POST", f"{url}/v1/completions", json=body) as reply:
        seconds = 0.0
        async for line in reply.aiter_lines():
            if line.startswith("data: ") and not seconds:
                seconds = time.perf_counter() - start
    return seconds


def in_process(model: Path, threads: int, workloads: list[str]) -> dict[str, Any]:
    """The median round of each workload with the engine alone, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.inprocess", str(model), "--threads", str(threads)]
    command += ["--repeats", str(REPEATS), "--workloads", *workloads]
    out = subprocess.run(
        command, env={**pinned_environment(), "OMP_NUM_THREADS": str(threads)}, capture_output=True, check=True
    )
    rounds = json.loads(out.stdout)
    return {name: sorted(rounds[name], key=lambda r: r["tokens_per_s"])[REPEATS // 2] for name in workloads}


async def against_in_process(model: Path, name: str) -> dict[str, Any]:
    """W2 and W3 through HTTP with one engine thread, beside in-process with one and with two threads."""
    workloads = ["W2", "W3"]
    one, two = in_process(model, 1, workloads), in_process(model, 2, workloads)
    env = {"SAGELLM_THREADS": "1", "OMP_NUM_THREADS": "1", "SAGELLM_MAX_MODEL_LEN": "2048"}
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
    """Everything in this file, one after the other."""
    smol135 = make_smol135(CACHE / "smol135", BUILTIN)
    return {
        "many_streams": await many_streams(),
        "idle_ttft": await idle_ttft(),
        "smol135": await against_in_process(smol135, "smol135"),
        "builtin": await against_in_process(BUILTIN, "sage-tiny"),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run()), indent=1))
