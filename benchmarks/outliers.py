"""A copy of a model with outlier channels: other weights, the same function to the last bit.

Some channels between two layers are multiplied by a power of two, which the next layer's columns undo exactly.
"""

import json
import random
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from sagellm_engine.models.config import ModelConfig, read_model_config

FACTOR = 64.0
SHARE = 0.01
WEIGHTS = "model.safetensors"
VALUES, UP, NORMS = SORTS = ("values", "up", "norms")


def with_outliers(folder: Path, target: Path, sorts: tuple[str, ...] = SORTS) -> Path:
    """Write a copy of a model folder, in fp32, with outlier channels of these sorts in every layer."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(WEIGHTS))
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps({**raw, "torch_dtype": "float32"}), encoding="utf-8")
    tensors = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    config, rng = read_model_config(folder), random.Random(0)
    for layer in range(config.num_layers):
        for sort in sorts:
            _INJECT[sort](tensors, f"model.layers.{layer}.", config, rng)
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    return target


def _inject_values(tensors: dict[str, Tensor], layer: str, config: ModelConfig, rng: random.Random) -> None:
    """A value channel of a key head feeds the same channel of every query head of its group."""
    group = config.num_heads // config.num_kv_heads
    for channel in _draw(config.num_kv_heads * config.head_dim, rng):
        tensors[layer + "self_attn.v_proj.weight"][channel] *= FACTOR
        key_head, place = divmod(channel, config.head_dim)
        for head in range(key_head * group, (key_head + 1) * group):
            tensors[layer + "self_attn.o_proj.weight"][:, head * config.head_dim + place] /= FACTOR


def _inject_up(tensors: dict[str, Tensor], layer: str, config: ModelConfig, rng: random.Random) -> None:
    channels = _draw(config.intermediate_size, rng)
    tensors[layer + "mlp.up_proj.weight"][channels] *= FACTOR
    tensors[layer + "mlp.down_proj.weight"][:, channels] /= FACTOR


def _inject_norms(tensors: dict[str, Tensor], layer: str, config: ModelConfig, rng: random.Random) -> None:
    """Both norms' gains, undone in all weights that read what they give."""
    for norm, readers in (
        ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ):
        channels = _draw(config.hidden_size, rng)
        tensors[f"{layer}{norm}.weight"][channels] *= FACTOR
        for reader in readers:
            tensors[f"{layer}{reader}.weight"][:, channels] /= FACTOR


def _draw(num_channels: int, rng: random.Random) -> list[int]:
    return rng.sample(range(num_channels), max(1, round(num_channels * SHARE)))


_INJECT = {VALUES: _inject_values, UP: _inject_up, NORMS: _inject_norms}
