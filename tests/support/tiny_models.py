"""Tiny random decoders, written as real model folders, with transformers as the reference."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB_SIZE = 512

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _make(name: str) -> PreTrainedModel:
    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=True))
    if name == "llama-bias":
        return LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=False, attention_bias=True, mlp_bias=True))
    if name == "llama3-rope":
        return LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=False, rope_parameters=_LLAMA3_ROPE))
    if name == "linear-rope":
        rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
        return LlamaForCausalLM(LlamaConfig(**_SHAPE, tie_word_embeddings=True, rope_parameters=rope))
    if name == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**_without_head_dim()))
    return Qwen3ForCausalLM(Qwen3Config(**{**_SHAPE, "head_dim": 32}, tie_word_embeddings=True))


def _without_head_dim() -> dict[str, Any]:
    return {key: value for key, value in _SHAPE.items() if key != "head_dim"}


TINY_MODELS = ("llama", "llama-bias", "llama3-rope", "linear-rope", "qwen2", "qwen3")


def make_tiny_model(name: str, folder: Path, **save_options: Any) -> PreTrainedModel:
    """Write a random model of a family to a folder and return it as transformers computes it, in fp32."""
    torch.manual_seed(7)
    model = _make(name).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key or key.endswith("bias"):  # make them matter: by default they are ones and zeros
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder, **save_options)
    return model


@torch.inference_mode()
def reference_logits(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """Return transformers' logits [tokens, V] for one sequence."""
    output = model(torch.tensor([tokens], device=model.device))
    logits: torch.Tensor = output.logits[0]
    return logits
