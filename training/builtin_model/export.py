"""Writes a model in the folder layout that transformers and sageLLM read."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from builtin_model.model import Llama, ModelShape
from builtin_model.tokenizer import end_ids


def export_model(model: Llama, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes model.safetensors in bfloat16, config.json and generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes files that others may not read
    ends = end_ids(tokenizer)
    _write(folder / "config.json", llama_config(model.shape, ends))
    generation: dict[str, object] = {
        "eos_token_id": ends,
        "pad_token_id": ends[1],
        "do_sample": False,
        "max_new_tokens": 256,
    }
    _write(folder / "generation_config.json", generation)


def llama_config(shape: ModelShape, ends: list[int]) -> dict[str, object]:
    """The config.json of a Llama model with these sizes."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **shape.as_dict(),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "bos_token_id": None,
        "eos_token_id": ends,
        "pad_token_id": ends[1],
        "use_cache": True,
        "torch_dtype": "bfloat16",
    }


def load_model(shape: ModelShape, folder: Path) -> Llama:
    """An exported model, in float32."""
    model = Llama(shape)
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.eval()


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
