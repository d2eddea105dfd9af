"""The engine alone, in this process: `python -m benchmarks.inprocess FOLDER --threads 1 --workloads W2 W3`.

Prints one JSON object: workload → rounds of tokens a second, TTFT and ITL, as a client of the core would see them.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from benchmarks.shapes import WORKLOADS, prompt
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.types import EngineRequest, SamplingParams
from sagellm_engine.inprocess import LocalEngine


def measure(engine: LocalEngine, workload: str, repeats: int) -> list[dict[str, float]]:
    """Run a workload `repeats` times after one warm-up; every round has prompts of its own."""
    requests, prompt_tokens, max_tokens = WORKLOADS[workload]
    rounds = range(repeats + 1)
    return [_round(engine, f"{workload}-{n}", n, requests, prompt_tokens, max_tokens) for n in rounds][1:]


def _round(
    engine: LocalEngine, name: str, number: int, requests: int, prompt_tokens: int, max_tokens: int
) -> dict[str, float]:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, seed=0, ignore_eos=True)
    start = time.perf_counter()
    for index in range(requests):
        ids = prompt(number * requests + index, prompt_tokens)
        engine.core.submit(
            EngineRequest(key=(f"{name}-{index}", 0), prompt_token_ids=ids, sampling=sampling), time.monotonic()
        )
    last: dict[str, float] = {}
    firsts, gaps, tokens = [], [], 0
    while engine.core.has_work():
        outputs = engine.core.step(time.monotonic()).tokens
        now = time.perf_counter()
        for output in outputs:
            tokens += len(output.token_ids)
            key = output.key[0]
            (gaps.append(now - last[key]) if key in last else firsts.append(now - start))
            last[key] = now
    seconds = time.perf_counter() - start
    gaps.sort()
    return {
        "tokens_per_s": tokens / seconds,
        "seconds": seconds,
        "ttft_p50_ms": statistics.median(firsts) * 1e3,
        "itl_p50_ms": statistics.median(gaps) * 1e3,
        "itl_p99_ms": gaps[int(len(gaps) * 0.99)] * 1e3,
    }


def main() -> None:
    """Parse the command line, run, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["W2", "W3"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quantization")
    args = parser.parse_args()
    config = EngineConfig(
        model_path=args.model,
        backend="cpu",
        num_threads=args.threads,
        max_model_len=2048,
        quantization=args.quantization,
    )
    with LocalEngine(config) as engine:
        print(json.dumps({name: measure(engine, name, args.repeats) for name in args.workloads}))


if __name__ == "__main__":
    main()
