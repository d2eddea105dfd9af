"""A running stack to measure, and what its processes cost."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import Disturbance, cpu_seconds, memory_mib, watched
from sagellm.launcher.config import StackConfig
from sagellm.launcher.stack import Stack

PINNED = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
MAX_TRIES = 3


@dataclass
class Cost:
    """Processor seconds of each service during a block."""

    seconds: dict[str, float] = field(default_factory=dict)

    def us_per_token(self, tokens: float) -> dict[str, float]:
        """Microseconds of processor time per token, by service."""
        return {name: round(seconds / tokens * 1e6, 2) for name, seconds in self.seconds.items()}


@asynccontextmanager
async def running(**config: Any) -> AsyncIterator[Stack]:
    """Start a stack in a temporary folder and stop it afterwards; engine threads are pinned."""
    with tempfile.TemporaryDirectory() as folder:
        env = {"SAGELLM_LOG_LEVEL": "warning", **PINNED, **config.pop("env", {})}
        stack = Stack(StackConfig(env=env, **config), Path(folder) / "bench")
        await stack.start()
        try:
            await stack.wait_ready()
            yield stack
        finally:
            await stack.stop()


def pids(stack: Stack) -> dict[str, int]:
    """Service name → process id."""
    return {name: child.pid for name, child in stack.children.items() if child.pid}


def memory(stack: Stack) -> dict[str, float]:
    """Service name → proportional set size in MiB."""
    return {name: round(memory_mib(pid), 1) for name, pid in pids(stack).items()}


@contextmanager
def costed(stack: Stack) -> Iterator[Cost]:
    """Count what each service uses during the block."""
    before = {name: cpu_seconds(pid) for name, pid in pids(stack).items()}
    cost = Cost()
    yield cost
    cost.seconds = {name: cpu_seconds(pid) - before[name] for name, pid in pids(stack).items()}


async def load(url: str, model: str, *, streams: int, prompt_tokens: int, max_tokens: int, repeats: int) -> Any:
    """Run `benchmarks.load` in a process of its own and return its rounds."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load", url, model, "--streams", str(streams)),
        *("--prompt-tokens", str(prompt_tokens), "--max-tokens", str(max_tokens), "--repeats", str(repeats)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise SystemExit("the load generator failed; its message stands above")
    return json.loads(out)


async def measured_load(stack: Stack, model: str, **shape: int) -> dict[str, Any]:
    """Run a load undisturbed (a disturbed run is discarded and repeated): its median round, and its cost."""
    for attempt in range(MAX_TRIES):
        with watched([*pids(stack).values()]) as disturbance, costed(stack) as cost:
            rounds = await load(stack.plan.http_url, model, **shape)
        if not _disturbed(disturbance):
            break
        print(f"    disturbed run {attempt + 1} discarded: {disturbance}")
    median = sorted(rounds, key=lambda r: r["tokens_per_s"])[len(rounds) // 2]
    tokens = sum(r["tokens"] for r in rounds)
    return {
        **{name: round(value, 2) for name, value in median.items()},
        "spread_tokens_per_s": [round(r["tokens_per_s"], 1) for r in rounds],
        "cpu_us_per_token": cost.us_per_token(tokens),
        "steal": round(disturbance.steal, 4),
        "disturbed": _disturbed(disturbance),
    }


def _disturbed(disturbance: Disturbance) -> bool:
    """Whether the host took processor time; the load generator itself is foreign to the services, so that not."""
    return disturbance.steal > 0.02


def pinned_environment() -> dict[str, str]:
    """This process' environment with threads pinned, for children that compute."""
    return {**os.environ, **PINNED}
