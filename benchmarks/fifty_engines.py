"""Fifty mock engines live over NATS on one scheduler: how requests spread, what they wait, what the scheduler costs.

Every engine is the real engine service on a connection of its own; several share a process to save memory.
`python -m benchmarks.fifty_engines` prints the figures.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.machine import cpu_seconds
from benchmarks.stack import load, memory, pids, running
from sagellm.launcher.stack import Stack
from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.settings import BusSettings

NUM_ENGINES = 50
ENGINES_PER_PROCESS = 7
STREAMS, MAX_TOKENS, ROUNDS = 400, 32, 3
IDLE_S = 5.0
START_TIMEOUT_S = 180.0


class Observer:
    """Listens to the assignments as any observer may: engines chosen, and the time from submit to assignment."""

    def __init__(self) -> None:
        self.chosen: Counter[str] = Counter()
        self.queue_ms: list[float] = []

    def assigned(self, event: RequestEvent, received: Received) -> None:
        self.chosen[event.engine_id or ""] += 1
        self.queue_ms.append(event.queue_ms or 0.0)


@contextmanager
def hosts(nats_url: str, count: int) -> Iterator[None]:
    """Run `count` engines in a few processes until the block ends."""
    env = {**os.environ, "SAGELLM_NATS_URL": nats_url, "SAGELLM_BACKEND": "mock", "OMP_NUM_THREADS": "1"}
    firsts = range(0, count, ENGINES_PER_PROCESS)
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.fifty_engines",
                str(first),
                str(min(count - first, ENGINES_PER_PROCESS)),
            ],
            env=env,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        for first in firsts
    ]
    try:
        yield
    finally:
        for process in processes:
            process.communicate(timeout=30)


def host(first: int, count: int) -> None:
    """Be one of those processes: engines `first` to `first + count` on one event loop, until stdin ends."""
    from sagellm_common.runner import run as run_service
    from sagellm_engine.service.main import serve
    from sagellm_engine.settings import EngineSettings

    made = [EngineSettings(engine_id=f"mock-{number}", log_level="warning") for number in range(first, first + count)]

    async def until(stop: asyncio.Event) -> None:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
        await asyncio.gather(*(serve(settings, stop) for settings in made))

    run_service("engine", f"mock-{first}", made[0], until)


async def registered(bus: Bus, count: int) -> float:
    """Return the seconds until so many engines are registered."""
    bucket = await bus.bucket(bus.settings.subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
    began = time.monotonic()
    while len(await bucket.read_all(EngineRegistration)) < count:
        if time.monotonic() - began > START_TIMEOUT_S:
            raise SystemExit(f"fewer than {count} engines registered within {START_TIMEOUT_S:g} s")
        await asyncio.sleep(0.25)
    return time.monotonic() - began


async def measure(stack: Stack, bus: Bus) -> dict[str, Any]:
    """Idle for a while, then run the load; return the figures of both."""
    observer = Observer()
    await bus.subscribe(bus.settings.subjects.request_event("assigned"), RequestEvent, observer.assigned)
    scheduler = pids(stack)["scheduler"]
    before = cpu_seconds(scheduler)
    await asyncio.sleep(IDLE_S)
    idle = cpu_seconds(scheduler)
    rounds = await load(
        stack.plan.http_url, "mock-model", streams=STREAMS, prompt_tokens=64, max_tokens=MAX_TOKENS, repeats=ROUNDS
    )
    busy = cpu_seconds(scheduler)
    shares = [observer.chosen[name] for name in observer.chosen]
    p50, p99 = np.percentile(observer.queue_ms, [50, 99])
    return {
        "requests": len(observer.queue_ms),
        "engines_used": len(observer.chosen),
        "requests_per_engine": [min(shares), max(shares)],
        "queue_p50_ms": round(float(p50), 2),
        "queue_p99_ms": round(float(p99), 2),
        "tokens_per_s": [round(result["tokens_per_s"]) for result in rounds],
        "missing_tokens": sum(result["missing_tokens"] for result in rounds),
        "ttft_p50_ms": [round(result["ttft_p50_ms"], 1) for result in rounds],
        "scheduler_idle_cpu_percent": round((idle - before) / IDLE_S * 100, 1),
        "scheduler_cpu_ms_per_request": round((busy - idle) / max(1, len(observer.queue_ms)) * 1e3, 3),
        "memory_mib": memory(stack),
    }


async def run() -> dict[str, Any]:
    """Start the stack, the other engines, measure."""
    async with running(backend="mock", model="mock-model") as stack:
        with hosts(stack.plan.nats_url, NUM_ENGINES - 1):
            bus = await Bus.connect(BusSettings(nats_url=stack.plan.nats_url), "bench")
            try:
                ready_s = await registered(bus, NUM_ENGINES)
                return {"engines": NUM_ENGINES, "all_registered_s": round(ready_s, 1), **await measure(stack, bus)}
            finally:
                await bus.close()


def main() -> None:
    """Be a host if told which engines to run, else measure and print."""
    if len(sys.argv) == 3:
        host(int(sys.argv[1]), int(sys.argv[2]))
    else:
        print(json.dumps(asyncio.run(run()), indent=1))


if __name__ == "__main__":
    main()
