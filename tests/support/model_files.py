"""Model folders for tests: whole, tiny, and written without torch."""

import json
import struct
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 16,
    "hidden_size": 4,
    "max_position_embeddings": 128,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WEIGHTS = {"model.embed_tokens.weight": (16, 4), "model.norm.weight": (4,)}


def safetensors_bytes(shapes: dict[str, tuple[int, ...]] | None = None, fill: int = 0) -> bytes:
    """Return a valid safetensors file of bfloat16 tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in (WEIGHTS if shapes is None else shapes).items():
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes([fill]) * at


def model_files(fill: int = 0, shapes: dict[str, tuple[int, ...]] | None = None) -> dict[str, bytes]:
    """Return the files of a tiny whole model, by name."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "generation_config.json": json.dumps({"eos_token_id": [2, 3]}).encode(),
        "tokenizer_config.json": json.dumps({"eos_token": "<end>", "chat_template": "{{ messages }}"}).encode(),
        "tokenizer.json": json.dumps({"added_tokens": [{"id": 5, "content": "<end>"}]}).encode(),
        "model.safetensors": safetensors_bytes(shapes, fill),
    }


def write_model(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    """Write a tiny whole model into `folder`."""
    for name, data in (model_files() if files is None else files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
