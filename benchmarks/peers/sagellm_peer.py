"""Our engine, driven as the others are: python sagellm_peer.py FOLDER OPTIONS_AS_JSON THREADS."""

import json
import sys
import time
from pathlib import Path

from session import serve  # the path is set just above

from sagellm_engine.backends.native_runner import NativeRunner
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.types import SamplingParams
from sagellm_engine.inprocess import LocalEngine

if __name__ == "__main__":
    began = time.perf_counter()
    options = json.loads(sys.argv[2])
    sampling = options.pop("sampling", {})
    config = EngineConfig(
        model_path=Path(sys.argv[1]),
        backend="cpu",
        num_threads=int(sys.argv[3]),
        max_model_len=2048,
        kv_cache_memory_bytes=1 << 30,
        prefix_cache=False,
        **options,
    )
    engine = LocalEngine(config)

    def generate(ids: list[list[int]], max_tokens: int) -> int:
        params = SamplingParams(**{"max_tokens": max_tokens, "temperature": 0.0, "ignore_eos": True, **sampling})
        return sum(map(len, engine.generate(ids, params)))

    runner = engine.core._runner
    assert isinstance(runner, NativeRunner)
    facts = {"kind": engine.core.info.kind, "read_bytes": runner.greedy_bytes, "screens": runner.screens}
    serve(generate, start_s=time.perf_counter() - began, facts=facts)
