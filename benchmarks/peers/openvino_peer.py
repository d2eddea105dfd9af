"""OpenVINO GenAI: python openvino_peer.py FOLDER f32|bf16 THREADS [int8|int4]

pip install openvino-genai openvino-tokenizers optimum-intel nncf; exports beside FOLDER the first time.
"""

import sys
import time
from pathlib import Path

import numpy as np  # the path is set just above
import openvino as ov
import openvino_genai as genai
from session import apart, serve


def export(source: Path, weights: str) -> Path:
    """Convert a model folder once; the tokenizer is converted too, for the pipeline insists on one."""
    target = source.with_name(f"{source.name}-ov-{weights}")
    if (target / "openvino_detokenizer.xml").exists():
        return target
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
    from transformers import PreTrainedTokenizerFast

    quantization = {
        "int8": OVWeightQuantizationConfig(bits=8),
        "int4": OVWeightQuantizationConfig(bits=4, group_size=32, sym=True, ratio=1.0),
    }.get(weights)
    model = OVModelForCausalLM.from_pretrained(
        source, export=True, compile=False, load_in_8bit=False, quantization_config=quantization
    )
    model.save_pretrained(target)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), eos_token="<|im_end|>")
    names = ("openvino_tokenizer", "openvino_detokenizer")
    for model, name in zip(convert_tokenizer(tokenizer, with_detokenizer=True), names, strict=True):
        ov.save_model(model, target / f"{name}.xml")
    return target


if __name__ == "__main__":
    folder, precision, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    weights = sys.argv[4] if len(sys.argv) > 4 else "16 bits"
    target = apart(export, folder, weights.replace(" ", ""))
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.max_num_batched_tokens, scheduler.max_num_seqs = 1, 2048, 64
    scheduler.enable_prefix_caching = False
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    began = time.perf_counter()
    pipe = genai.ContinuousBatchingPipeline(str(target), scheduler, "CPU", options)
    start_s = time.perf_counter() - began

    def generate(ids: list[list[int]], max_tokens: int) -> int:
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = max_tokens, True, False
        inputs = [ov.Tensor(np.array([p], dtype=np.int64)) for p in ids]
        results = pipe.generate(inputs, [config] * len(ids))
        return sum(len(result.m_generation_ids[0]) for result in results)

    kv = "u8" if weights in ("int8", "int4") else "u8 (default)"
    serve(generate, start_s=start_s, facts={"weights": weights, "activations": precision, "kv": kv})
