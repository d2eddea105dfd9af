"""One process that loads a folder and makes a token: `python -m benchmarks.first_token FOLDER OPTIONS_AS_JSON`.

Prints when the token is there, then one JSON object: MiB of anonymous memory after the imports, after the first token
and after 32 requests of 128 tokens, the pages of keys and values left out.
"""

import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.peers.session import prompts
from sagellm_engine.backends.cpu import MAX_BATCH_TOKENS
from sagellm_engine.backends.native_loader import load_native_runner
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.types import EngineRequest, SamplingParams

FREE = 4 << 30
KV_BYTES = 1 << 28
PAGE = 4096


def anonymous_mib() -> float:
    """Resident anonymous memory of this process."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return int(rollup.split("\nAnonymous:")[1].split()[0]) / 1024


def resident_mib(address: int, size: int) -> float:
    """Memory that the system has provided for a range of addresses."""
    with Path("/proc/self/pagemap").open("rb") as file:
        file.seek(address // PAGE * 8)
        entries = np.frombuffer(file.read(-(-size // PAGE) * 8), np.uint64)
    return int((entries >> np.uint64(63)).sum()) * PAGE / 2**20


def main() -> None:
    """Load, generate, say what it took."""
    imported = anonymous_mib()
    options = json.loads(sys.argv[2])
    config = EngineConfig(
        model_path=Path(sys.argv[1]), backend="cpu", max_model_len=2048, kv_cache_memory_bytes=KV_BYTES, **options
    )
    runner = load_native_runner(config, max_batch_tokens=MAX_BATCH_TOKENS, free_bytes=lambda: FREE)
    core = EngineCore(config, runner)

    def generate(number: int, length: int, max_tokens: int) -> None:
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        for index, ids in enumerate(prompts(number, length, length)):
            core.submit(EngineRequest(key=(f"{length}-{index}", 0), prompt_token_ids=ids, sampling=sampling), 0.0)
        while core.has_work():
            core.step(0.0)

    generate(1, 32, 1)
    print("token", flush=True)

    def own_mib() -> float:
        return round(anonymous_mib() - resident_mib(*runner.kv_memory), 1)

    after_first = own_mib()
    generate(32, 128, 8)
    packed = runner.packed_bytes / 2**20
    measured = {"imported_mib": round(imported, 1), "first_token_mib": after_first, "loaded_mib": own_mib()}
    print(json.dumps({**measured, "packed_mib": round(packed, 1), "kind": runner.info.kind}), flush=True)


if __name__ == "__main__":
    main()
