"""What the services add to one request at idle: time to the first token of a mock engine that takes no time."""

import asyncio
import json
import statistics
import time
from typing import Any

import httpx

from benchmarks.stack import running

REQUESTS, WARM_UP = 300, 20


async def run() -> dict[str, Any]:
    """One request after the other, one token each, from a mock engine that takes no time."""
    async with running(backend="mock", model="mock-model") as stack, httpx.AsyncClient() as client:
        body = {"model": "mock-model", "prompt": [11, 12, 13, 14], "max_tokens": 1, "temperature": 0, "stream": True}
        times = [await _first_chunk(client, stack.plan.http_url, body) for _ in range(REQUESTS + WARM_UP)][WARM_UP:]
        times.sort()
        return {
            "ttft_p50_ms": round(statistics.median(times) * 1e3, 2),
            "ttft_p99_ms": round(times[int(REQUESTS * 0.99)] * 1e3, 2),
            "requests": REQUESTS,
        }


async def _first_chunk(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> float:
    start = time.perf_counter()
    async with client.stream("POST", f"{url}/v1/completions", json=body) as reply:
        seconds = 0.0
        async for line in reply.aiter_lines():
            if line.startswith("data: ") and not seconds:
                seconds = time.perf_counter() - start
    return seconds


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run()), indent=1))
