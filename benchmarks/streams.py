"""200 concurrent HTTP streams through one gateway, from a mock engine.

`paced`: a step takes 6 ms, so that each token comes alone and is an event of its own (33,333 tokens a second at most).
`unbounded`: a step takes no time; the gateway joins what waits for a client into one event.
"""

import asyncio
import json
from typing import Any

from benchmarks.stack import measured_load, memory, running

REPEATS = 5


async def measure(step_ms: float) -> dict[str, Any]:
    """The median round, processor time a token of each service, and its memory."""
    env = {"SAGELLM_MAX_NUM_SEQS": "256", "SAGELLM_MOCK_STEP_MS": str(step_ms)}
    async with running(backend="mock", model="mock-model", env=env) as stack:
        shape = {"streams": 200, "prompt_tokens": 128, "max_tokens": 512, "repeats": REPEATS}
        result = await measured_load(stack, "mock-model", **shape)
        return {**result, "memory_mib": memory(stack)}


async def run() -> dict[str, Any]:
    """Both."""
    return {"paced": await measure(6.0), "unbounded": await measure(0.0)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run()), indent=1))
