"""Models of well-known shapes with random weights: speed does not depend on the values."""

import json
from pathlib import Path
from typing import Any

from benchmarks.peers.session import WORKLOADS

__all__ = ["SHAPES", "WORKLOADS", "make_model", "prompt"]

COMMON = {"tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 2}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "smol135": (
        "Llama",
        {
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "intermediate_size": 1536,
            "vocab_size": 49152,
            "max_position_embeddings": 32768,
            "rope_theta": 100000.0,
            **COMMON,
        },
    ),
    "qwen05": (
        "Qwen2",
        {
            "hidden_size": 896,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "intermediate_size": 4864,
            "vocab_size": 151936,
            "max_position_embeddings": 32768,
            "rope_theta": 1000000.0,
            **COMMON,
        },
    ),
}
"""Name → (family of transformers, its configuration): the smallest models that people really serve."""


def prompt(index: int, length: int) -> list[int]:
    """Token ids of one prompt; different for each index, the same in every run."""
    return [10 + (index * 7919 + position * 104_729) % 3_000 for position in range(length)]


def make_model(shape: str, folder: Path, tokenizer_from: Path) -> Path:
    """Write one of SHAPES with random weights as bf16 safetensors, once.

    The tokenizer is that of `tokenizer_from`, with a text for each of the further ids.
    """
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    import transformers

    family, fields = SHAPES[shape]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**fields)
    model = getattr(transformers, f"{family}ForCausalLM")(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((tokenizer_from / name).read_bytes())
    tokenizer = json.loads((tokenizer_from / "tokenizer.json").read_text())
    _name_all_tokens(tokenizer, config.vocab_size)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def _name_all_tokens(tokenizer: dict[str, Any], vocab_size: int) -> None:
    """Give every id of the model a text, so that every token is an event for the client."""
    vocab = tokenizer["model"]["vocab"]
    taken = {*vocab.values(), *(token["id"] for token in tokenizer["added_tokens"])}
    vocab.update({f"t{number}": number for number in range(vocab_size) if number not in taken})
