"""What config.json says about a model, checked before anything large is read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagellm_common.errors import InvalidArgument, NotFound, NotImplementedByServer
from sagellm_engine.models.families import FAMILIES
from sagellm_engine.models.rope import RopeConfig, parse_rope


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of a decoder, in the terms of config.json; `checkpoint_dtype` as torch names it."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    rms_norm_eps: float
    tie_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    rope: RopeConfig
    eos_token_ids: frozenset[int]
    checkpoint_dtype: str


def read_model_config(folder: Path) -> ModelConfig:
    """Read a model folder's configuration.

    Raises NotFound without a config.json, InvalidArgument for a broken one, NotImplementedByServer for a model that
    this engine cannot run.
    """
    if not (folder / "config.json").is_file():
        raise NotFound(f"Model '{folder}' not found: there is no config.json", param="model_path")
    raw = _read_json(folder / "config.json")
    generation = folder / "generation_config.json"
    eos = _read_json(generation).get("eos_token_id") if generation.is_file() else None
    try:
        return parse_model_config(raw, eos)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"{folder / 'config.json'} is incomplete or wrong: {error!r}") from error


def parse_model_config(raw: Mapping[str, Any], generation_eos: int | list[int] | None = None) -> ModelConfig:
    """Turn the content of config.json into a ModelConfig; see `read_model_config` for what is raised."""
    family = raw.get("model_type", "absent")
    _refuse_unsupported(family, raw)
    facts = FAMILIES[family]
    num_heads = int(raw["num_attention_heads"])
    eos = generation_eos if generation_eos is not None else raw.get("eos_token_id")

    def fact(value: bool | str) -> bool:
        return bool(raw.get(value, False)) if isinstance(value, str) else value

    return ModelConfig(
        family=family,
        vocab_size=int(raw["vocab_size"]),
        hidden_size=int(raw["hidden_size"]),
        intermediate_size=int(raw["intermediate_size"]),
        num_layers=int(raw["num_hidden_layers"]),
        num_heads=num_heads,
        num_kv_heads=int(raw.get("num_key_value_heads") or num_heads),
        head_dim=int(raw.get("head_dim") or facts.head_dim or raw["hidden_size"] // num_heads),
        max_position=int(raw.get("max_position_embeddings", 2048)),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=fact(facts.qkv_bias),
        o_bias=fact(facts.o_bias),
        mlp_bias=fact(facts.mlp_bias),
        qk_norm=facts.qk_norm,
        rope=parse_rope(raw),
        eos_token_ids=frozenset() if eos is None else frozenset([eos] if isinstance(eos, int) else eos),
        checkpoint_dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
    )


def _refuse_unsupported(family: str, raw: Mapping[str, Any]) -> None:
    if family not in FAMILIES:
        raise NotImplementedByServer(
            f"model type {family!r} is not supported; supported are {', '.join(sorted(FAMILIES))}"
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise NotImplementedByServer(f"activation {raw['hidden_act']!r} is not supported")
    if raw.get("quantization_config"):
        raise NotImplementedByServer("a quantized checkpoint is not supported")
    if raw.get("use_sliding_window") or "sliding_attention" in (raw.get("layer_types") or ()):
        raise NotImplementedByServer("sliding-window attention is not supported")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidArgument(f"{path} does not hold a JSON object")
    return content
