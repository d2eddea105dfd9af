"""How soon the engine is free again after a client has gone: from closing the connection to nothing running."""

import asyncio
import json
import time
from typing import Any

import httpx

from benchmarks.stack import running
from sagellm_common.bus import Bus
from sagellm_common.contracts.dispatch import ControlReply, ControlRequest
from sagellm_common.settings import BusSettings

REQUESTS = 100
ENGINE = "engine-1"


async def run() -> dict[str, Any]:
    """Disconnect 100 streams of the built-in model, one after the other."""
    async with running(model="sage-tiny", backend="cpu") as stack:
        bus = await Bus.connect(BusSettings(nats_url=stack.plan.nats_url), "bench")
        times = sorted([await _one(stack.plan.http_url, bus) for _ in range(REQUESTS)])
        await bus.close()
    return {
        "freed_p50_ms": round(times[REQUESTS // 2] * 1e3, 1),
        "freed_p99_ms": round(times[int(REQUESTS * 0.99)] * 1e3, 1),
        "requests": REQUESTS,
    }


async def _one(url: str, bus: Bus) -> float:
    """Stream a few chunks, close the connection, ask the engine until it runs nothing (0.5 ms a question)."""
    body = {
        "model": "sage-tiny",
        "prompt": "Once upon a time",
        "max_tokens": 900,
        "stream": True,
        "ignore_eos": True,
    }
    async with httpx.AsyncClient() as client, client.stream("POST", f"{url}/v1/completions", json=body) as reply:
        reply.raise_for_status()
        chunks = reply.aiter_lines()
        for _ in range(6):
            await anext(chunks)
        while await _running(bus) != 1:  # the engine reads its gauges every now and then while it works
            pass
        gone = time.perf_counter()
    while await _running(bus):
        pass
    return time.perf_counter() - gone


async def _running(bus: Bus) -> int:
    subject = bus.settings.subjects.engine_control(ENGINE)
    reply = await bus.request(subject, ControlRequest(action="status"), ControlReply)
    return reply.running + reply.waiting


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run()), indent=1))
