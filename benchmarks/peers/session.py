"""How a measured engine is driven: one workload a line on its input, one JSON object a line on its output.

Standard library only, for it is imported by every peer in its own environment.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

WORKLOADS = {"W1": (1, 128, 64), "W2": (8, 128, 64), "W3": (32, 128, 64), "W4": (8, 1024, 8)}
"""Name → (requests at once, prompt tokens, generated tokens)."""

Generate = Callable[[list[list[int]], int], int]
"""Generates so many tokens, greedily, for each prompt at once; returns the number of tokens made."""


def prompts(number: int, length: int, seed: int) -> list[list[int]]:
    """Token ids; other ones for every seed, so that nothing is found in a cache."""
    import random

    rng = random.Random(seed)
    return [[rng.randrange(10, 3000) for _ in range(length)] for _ in range(number)]


def apart(convert: Callable[..., Any], *arguments: object) -> Any:
    """Return what a function returns in a process of its own.

    A model is converted so: torch comes with an OpenMP that binds the process that converts to one processor, and with
    it all threads that the engine starts there later.
    """
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(convert, arguments)


def serve(generate: Generate, *, start_s: float, facts: dict[str, str]) -> None:
    """Warm up, say what this is, then measure what is asked for until the input ends."""
    generate(prompts(2, 32, seed=10**6), 4)
    print(json.dumps({"ready": True, "pid": os.getpid(), "start_s": round(start_s, 2), **facts}), flush=True)
    for seed, line in enumerate(sys.stdin):
        number, length, max_tokens = WORKLOADS[line.strip()]
        ids = prompts(number, length, seed)
        began = time.perf_counter()
        tokens = generate(ids, max_tokens)
        seconds = time.perf_counter() - began
        assert tokens == number * max_tokens, f"{tokens} tokens instead of {number * max_tokens}"
        print(json.dumps({"seconds": seconds}), flush=True)
