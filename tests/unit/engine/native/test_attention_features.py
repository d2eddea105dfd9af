"""Sliding windows, soft caps and sinks, which no family of ours uses yet, against attention written out in float64."""

import ctypes
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sagellm_engine.models.config import ModelConfig, read_model_config
from sagellm_engine.models.rope import inverse_frequencies
from sagellm_engine.native.abi import Compute, KvKind, WeightKind
from sagellm_engine.native.kv import NativeKv
from sagellm_engine.native.model import NativeModel
from sagellm_engine.native.packing import packed_model
from support.sequences import sequence
from support.tiny_models import VOCAB_SIZE, make_tiny_model

NUM_TOKENS = 100
PAGES = [5, 2, 9, 0, 7, 33, 21]
TOLERANCE = {KvKind.F32: 1e-4, KvKind.BF16: 0.03, KvKind.INT8: 0.005}
"""Of the largest logit: what the pages' precision leaves."""


class Features:
    """What is switched on: keys that are seen (0: all), the soft cap (0: none), one sink per head or None."""

    def __init__(self, window: int = 0, cap: float = 0.0, sinks: Tensor | None = None) -> None:
        self.window, self.cap, self.sinks = window, cap, sinks


def stored(x_KHD: Tensor, kind: KvKind) -> Tensor:
    """Round keys or values as pages of a kind hold them."""
    if kind is KvKind.BF16:
        return x_KHD.bfloat16().double()
    scale = x_KHD.abs().amax(-1, keepdim=True) / 127
    return (x_KHD / scale).round() * scale if kind is KvKind.INT8 else x_KHD


def reference(folder: Path, config: ModelConfig, tokens: list[int], features: Features, kind: KvKind) -> Tensor:
    """Compute the logits [tokens, V] from the definition."""
    weights = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weights[name + ".weight"]

    angles = torch.arange(len(tokens)).double()[:, None] * torch.tensor(
        inverse_frequencies(config.rope, config.head_dim), dtype=torch.float64
    )
    cos, sin = (torch.cat((f, f), -1)[:, None] for f in (angles.cos(), angles.sin()))
    x = weights["model.embed_tokens.weight"][torch.tensor(tokens)]
    for number in range(config.num_layers):
        layer = f"model.layers.{number}."
        normed = norm(x, layer + "input_layernorm")
        q, k, v = (
            (normed @ weights[f"{layer}self_attn.{name}_proj.weight"].T).view(len(tokens), -1, config.head_dim)
            for name in "qkv"
        )
        q, k = (h * cos + torch.cat((-h.chunk(2, -1)[1], h.chunk(2, -1)[0]), -1) * sin for h in (q, k))
        mixed = attend(q, stored(k, kind), stored(v, kind), features).flatten(1)
        x = x + mixed @ weights[layer + "self_attn.o_proj.weight"].T
        normed = norm(x, layer + "post_attention_layernorm")
        gate, up = (normed @ weights[f"{layer}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (torch.nn.functional.silu(gate) * up) @ weights[layer + "mlp.down_proj.weight"].T
    return norm(x, "model.norm") @ weights["model.embed_tokens.weight"].T


def attend(q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, features: Features) -> Tensor:
    """Attend with the features, all rows at once."""
    group = q_TND.shape[1] // k_TKD.shape[1]
    k, v = (x.repeat_interleave(group, 1) for x in (k_TKD, v_TKD))
    scores = torch.einsum("tnd,snd->nts", q_TND, k) / q_TND.shape[-1] ** 0.5
    if features.cap:
        scores = features.cap * torch.tanh(scores / features.cap)
    distance = torch.arange(len(q_TND))[:, None] - torch.arange(len(q_TND))
    seen = (distance >= 0) & ((distance < features.window) if features.window else True)
    scores = scores.masked_fill(~seen, float("-inf"))
    if features.sinks is not None:
        column = features.sinks.double()[:, None, None].expand(-1, len(q_TND), 1)
        scores = torch.cat((scores, column), -1)
    weights = scores.softmax(-1)[..., : len(q_TND)]
    return torch.einsum("nts,snd->tnd", weights, v)


SINKS = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0, -3.0])
CASES = {
    "plain": Features(),
    "window": Features(window=20),
    "short window": Features(window=1),
    "window over a tile": Features(window=70),
    "cap": Features(cap=2.0),
    "sinks": Features(sinks=SINKS),
    "all": Features(window=33, cap=5.0, sinks=SINKS),
}


@pytest.mark.parametrize("chunks", [(100,), (37, 63), (1,) * 100], ids=["whole", "chunks", "ones"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KvKind, ids=lambda kind: kind.name)
def test_features(tmp_path: Path, case: str, kind: KvKind, chunks: tuple[int, ...]) -> None:
    """The logits are those of the definition, in any division of the work and whatever the pages held before."""
    make_tiny_model("llama", tmp_path)
    config, features = read_model_config(tmp_path), CASES[case]
    packed = packed_model(tmp_path, config, WeightKind.F32)
    kv = NativeKv(config, 64, kind)
    ctypes.memset(kv.address, 0xFF, kv.num_bytes)  # not a number, wherever it is read as one
    model = NativeModel(config, WeightKind.F32, Compute.F32, packed, kv)
    model._model.score_cap = features.cap
    for layer in model._layers:
        layer.window = features.window
        layer.sinks = features.sinks.data_ptr() if features.sinks is not None else None
    tokens = [(7 * i * i + 3 * i) % VOCAB_SIZE for i in range(NUM_TOKENS)]
    seq = sequence(tokens)
    seq.pages = PAGES
    parts = []
    for chunk in chunks:
        seq.num_scheduled = chunk
        parts.append(model.forward([seq], range(chunk)).clone())
        seq.num_computed += chunk
    expected = reference(tmp_path, config, tokens, features, kind)
    error = (torch.cat(parts).double() - expected).abs().max() / expected.abs().max()
    assert error < TOLERANCE[kind]
