"""200 concurrent HTTP streams through one gateway, from a mock engine that takes no time."""

import asyncio
import json
from typing import Any

from benchmarks.stack import measured_load, memory, running

REPEATS = 5


async def run() -> dict[str, Any]:
    """The median round, processor time a token of each service, and its memory."""
    async with running(backend="mock", model="mock-model", env={"SAGELLM_MAX_NUM_SEQS": "256"}) as stack:
        shape = {"streams": 200, "prompt_tokens": 128, "max_tokens": 256, "repeats": REPEATS}
        result = await measured_load(stack, "mock-model", **shape)
        return {**result, "memory_mib": memory(stack)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run()), indent=1))
