"""The CPU engine against itself: start, memory, long prompts, shared prefixes, sampling, and where the time goes."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.limits import measure as limits
from benchmarks.overhead import BUILTIN, CACHE
from benchmarks.peers.session import WORKLOADS, prompts
from benchmarks.phases import profile
from benchmarks.shapes import make_model
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.types import SamplingParams
from sagellm_engine.inprocess import LocalEngine

ROUNDS = 3
FITTED, BEYOND = (1024, 2048, 3072, 4096), (8192, 12288, 16000)
SAMPLED = {"temperature": 0.8, "top_p": 0.95, "presence_penalty": 0.5, "frequency_penalty": 0.5}
MODES: dict[str, dict[str, Any]] = {
    "bf16": {"dtype": "bfloat16"},
    "fp32": {"dtype": "float32"},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
}


def run() -> dict[str, Any]:
    """Measure everything on the 135M shape."""
    folder = make_model("smol135", CACHE / "smol135", BUILTIN)
    threads = os.cpu_count() or 1
    roof = limits(threads)
    return {
        "limits": roof,
        "start": {name: _start(folder, options) for name, options in MODES.items()},
        "prefill": {name: _prefill(folder, MODES[name], threads, roof) for name in ("fp32", "bf16")},
        "prefix": _prefix(folder),
        "sampling": _sampling(folder),
        "phases": {
            name: {workload: profile(folder, workload, threads, **MODES[name]) for workload in ("W1", "W3", "W4")}
            for name in MODES
        },
    }


def _start(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Seconds from a process's start to its first token, with an empty pack cache and with a full one; memory."""
    with tempfile.TemporaryDirectory() as cache:
        cold = _first_token(folder, options, cache)
        warm = [_first_token(folder, options, cache) for _ in range(ROUNDS)]
    memory = warm[0]
    added = {name: round(memory[f"{name}_mib"] - memory["imported_mib"], 1) for name in ("first_token", "loaded")}
    return {
        "cold_s": cold["seconds"],
        "warm_s": statistics.median(row["seconds"] for row in warm),
        "packed_mib": memory["packed_mib"],
        **{f"{name}_added_mib": mib for name, mib in added.items()},
        **{f"{name}_added_share": round(mib / memory["packed_mib"], 3) for name, mib in added.items()},
    }


def _first_token(folder: Path, options: dict[str, Any], cache: str) -> dict[str, Any]:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.first_token", str(folder), json.dumps(options)],
        env={**os.environ, "SAGELLM_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "token\n"
    seconds = round(time.perf_counter() - began, 2)
    found: dict[str, Any] = json.loads(process.stdout.readline())
    process.wait()
    return {"seconds": seconds, **found}


def _prefill(folder: Path, options: dict[str, Any], threads: int, roof: dict[str, float]) -> dict[str, Any]:
    """Seconds to the first token by prompt length, a·n + b·n² fitted to the shorter ones, and the attention's rate."""
    config = EngineConfig(
        model_path=folder,
        backend="cpu",
        max_model_len=16384,
        prefix_cache=False,
        kv_cache_memory_bytes=2 << 30,
        **options,
    )
    with LocalEngine(config) as engine:
        seconds = {length: _median_ttft(engine, length, ROUNDS) for length in FITTED}
        seconds |= {length: _median_ttft(engine, length, 1) for length in BEYOND}
    lengths = np.array(FITTED, float)
    terms = np.stack([lengths, lengths**2], 1) / np.array([[seconds[n]] for n in FITTED])  # relative errors count
    a, b = np.linalg.lstsq(terms, np.ones(len(FITTED)), rcond=None)[0]
    over = {n: round(seconds[n] / (a * n + b * n * n), 3) for n in BEYOND}
    rate: float = _attention_rate(folder, options, threads)
    kind = "bf16" if options == MODES["bf16"] else "fp32"
    return {
        "seconds": {n: round(s, 3) for n, s in seconds.items()},
        "over_fit": over,
        "most_over_fit": max(over.values()),
        "attention_gflop_s_at_4k": round(rate / 1e9, 1),
        "attention_share_of_fp32": round(rate / 1e9 / roof["fp32"], 3),
        "attention_share_of_its_own": round(rate / 1e9 / roof[kind], 3),
    }


def _median_ttft(engine: LocalEngine, length: int, rounds: int) -> float:
    return statistics.median(_ttft(engine, prompts(1, length, seed)[0]) for seed in range(rounds))


def _ttft(engine: LocalEngine, ids: list[int]) -> float:
    began = time.perf_counter()
    engine.generate([ids], SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True))
    return time.perf_counter() - began


def _attention_rate(folder: Path, options: dict[str, Any], threads: int) -> float:
    """Operations a second of causal attention while a prompt of 4k tokens is read, each key counted once."""
    WORKLOADS["4k"] = (1, 4096, 1)
    try:
        phases = profile(folder, "4k", threads, **options)["prefill"]
    finally:
        del WORKLOADS["4k"]
    shape: dict[str, int] = json.loads((folder / "config.json").read_text())
    width = shape["num_attention_heads"] * (shape["hidden_size"] // shape["num_attention_heads"])
    keys = 4096 * 4097 / 2
    return 4 * keys * width * shape["num_hidden_layers"] / (phases["attention"] * phases["steps"] / 1e3)


def _prefix(folder: Path) -> dict[str, float]:
    """TTFT of prompts with a common beginning of 1,024 tokens, over that of the first."""
    with LocalEngine(
        EngineConfig(model_path=folder, backend="cpu", max_model_len=2048, kv_cache_memory_bytes=1 << 30)
    ) as engine:
        _ttft(engine, prompts(1, 256, 99)[0])
        firsts, later = [], []
        for seed in range(5):
            common = prompts(1, 1024, seed)[0]
            firsts.append(_ttft(engine, common + prompts(1, 32, 100 + seed)[0]))
            later.append(_ttft(engine, common + prompts(1, 32, 200 + seed)[0]))
    first, second = statistics.median(firsts), statistics.median(later)
    return {"first_ms": round(first * 1e3, 1), "later_ms": round(second * 1e3, 1), "ratio": round(second / first, 3)}


def _sampling(folder: Path) -> dict[str, float]:
    """W3 greedy and W3 sampled with top-p and penalties, in turn: generated tokens a second."""
    number, length, max_tokens = WORKLOADS["W3"]
    rates: dict[str, list[float]] = {"greedy": [], "sampled": []}
    config = EngineConfig(
        model_path=folder, backend="cpu", max_model_len=2048, prefix_cache=False, kv_cache_memory_bytes=1 << 30
    )
    with LocalEngine(config) as engine:
        for seed in range(2 * ROUNDS):
            for name, fields in (("greedy", {"temperature": 0.0}), ("sampled", SAMPLED)):
                params = SamplingParams(**{"max_tokens": max_tokens, "ignore_eos": True, "seed": seed, **fields})  # type: ignore[arg-type]
                began = time.perf_counter()
                engine.generate(prompts(number, length, seed), params)
                rates[name].append(number * max_tokens / (time.perf_counter() - began))
    greedy, sampled = (statistics.median(values[1:]) for values in rates.values())
    return {"greedy": round(greedy, 1), "sampled": round(sampled, 1), "ratio": round(sampled / greedy, 3)}
