"""Ten minutes of mixed load on the CPU engine: conversation lengths of the Azure trace, scaled, sixteen at once."""

import csv
import random
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.first_token import anonymous_mib
from benchmarks.overhead import BUILTIN, CACHE
from benchmarks.peers.session import prompts
from benchmarks.shapes import make_model
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.types import EngineRequest, SamplingParams
from sagellm_engine.inprocess import LocalEngine

SECONDS = 600.0
AT_ONCE = 16
BIN_S = 1e-5
"""Times between tokens are counted in steps of so many seconds: the measurement itself must not grow."""
SCALE = 4
"""Lengths are divided by it, so that requests of the 135M shape take seconds on two cores."""
LENGTHS = Path(__file__).parent / "data" / "azure_conversation_lengths.csv"


def lengths() -> list[tuple[int, int]]:
    """Prompt and generated tokens of each request."""
    with LENGTHS.open() as file:
        rows = [(int(row["prompt_tokens"]), int(row["generated_tokens"])) for row in csv.DictReader(file)]
    return [(max(prompt // SCALE, 1), max(generated // SCALE, 1)) for prompt, generated in rows]


class Load:
    """Keeps AT_ONCE requests in the engine and notes when each token comes."""

    def __init__(self, engine: LocalEngine) -> None:
        self._core = engine.core
        self._lengths = lengths()
        self._number = 0
        self._running: dict[str, float] = {}
        self.minutes: list[dict[str, float]] = []
        self._gaps: Counter[int] = Counter()
        self.all_gaps: Counter[int] = Counter()
        self._tokens = 0

    def submit(self) -> None:
        """Send the next request, of tokens nobody has sent before."""
        prompt, generated = self._lengths[self._number % len(self._lengths)]
        seed = random.Random(self._number).randrange(10**9)
        sampling = SamplingParams(max_tokens=generated, temperature=0.8, top_p=0.95, ignore_eos=True, seed=seed)
        key = (f"r{self._number}", 0)
        ids = prompts(1, prompt, self._number)[0]
        self._core.submit(EngineRequest(key=key, prompt_token_ids=ids, sampling=sampling), time.monotonic())
        self._running[key[0]] = 0.0
        self._number += 1
        self._tokens += prompt

    def step(self) -> None:
        """Run one step of the engine and fill up."""
        while len(self._running) < AT_ONCE:
            self.submit()
        outputs = self._core.step(time.monotonic()).tokens
        now = time.perf_counter()
        for output in outputs:
            name = output.key[0]
            if self._running[name]:
                self._gaps[round((now - self._running[name]) / BIN_S)] += 1
            self._running[name] = now
            self._tokens += len(output.token_ids)
            if output.finish:
                del self._running[name]

    def end_minute(self, seconds: float) -> None:
        """Keep the figures of the minute that ends."""
        self.minutes.append(
            {
                "tokens_per_s": round(self._tokens / seconds, 1),
                "itl_p50_ms": quantile_ms(self._gaps, 0.5),
                "anonymous_mib": round(anonymous_mib(), 1),
            }
        )
        self.all_gaps += self._gaps
        self._gaps, self._tokens = Counter(), 0


def quantile_ms(gaps: Counter[int], quantile: float) -> float:
    """Return a quantile of counted gaps, in milliseconds."""
    wanted, seen = quantile * gaps.total(), 0
    for place in sorted(gaps):
        seen += gaps[place]
        if seen >= wanted:
            return round(place * BIN_S * 1e3, 2)
    return float("nan")


def run() -> dict[str, Any]:
    """Run ten minutes; compare the minutes, without the first."""
    folder = make_model("smol135", CACHE / "smol135", BUILTIN)
    config = EngineConfig(
        model_path=folder, backend="cpu", max_model_len=4096, max_num_seqs=64, kv_cache_memory_bytes=1 << 30
    )
    with LocalEngine(config) as engine:
        load = Load(engine)
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            began = time.perf_counter()
            while time.perf_counter() < min(began + SECONDS / 10, end):
                load.step()
            load.end_minute(time.perf_counter() - began)
            print(f"  {load.minutes[-1]}", flush=True)
    rates = [minute["tokens_per_s"] for minute in load.minutes]
    memory = [minute["anonymous_mib"] for minute in load.minutes]
    return {
        "seconds": SECONDS,
        "itl_p50_ms": quantile_ms(load.all_gaps, 0.5),
        "itl_p99_ms": quantile_ms(load.all_gaps, 0.99),
        "itl_max_ms": quantile_ms(load.all_gaps, 1.0),
        "late_over_early_speed": round(statistics.median(rates[-3:]) / statistics.median(rates[1:4]), 3),
        "memory_growth_mib": round(memory[-1] - memory[2], 1),
        "minutes": load.minutes,
    }
