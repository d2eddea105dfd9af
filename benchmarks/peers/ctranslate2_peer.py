"""CTranslate2: python ctranslate2_peer.py FOLDER int8 THREADS   (pip install ctranslate2 transformers torch)."""

import json
import sys
import time
from pathlib import Path

import ctranslate2
from session import apart, serve


def converted(source: Path, quantization: str) -> Path:
    """Convert a model folder once."""
    target = source.with_name(f"{source.name}-ct2-{quantization}")
    if not (target / "model.bin").exists():
        ctranslate2.converters.TransformersConverter(str(source)).convert(
            str(target), quantization=quantization, force=True
        )
        file = target / "config.json"  # it reads no tokenizer without these
        first = json.loads((target / "vocabulary.json").read_text())[0]
        file.write_text(json.dumps({**json.loads(file.read_text()), "bos_token": first, "unk_token": first}))
    return target


if __name__ == "__main__":
    folder, kind, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    target = apart(converted, folder, kind)
    vocabulary = json.loads((target / "vocabulary.json").read_text())
    began = time.perf_counter()
    generator = ctranslate2.Generator(
        str(target), device="cpu", compute_type=kind, inter_threads=1, intra_threads=threads
    )

    def generate(ids: list[list[int]], max_tokens: int) -> int:
        results = generator.generate_batch(
            [[vocabulary[token] for token in prompt] for prompt in ids],
            max_length=max_tokens,
            min_length=max_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
            max_batch_size=0,
        )
        return sum(len(result.sequences_ids[0]) for result in results)

    facts = {"weights": kind, "activations": "int8 per token", "kv": "float32"}
    serve(generate, start_s=time.perf_counter() - began, facts=facts)
