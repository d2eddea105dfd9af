"""Key channels are brought to one size: the same scores to the last bit, and INT8 pages that outliers do not harm."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sagellm_engine.models.config import ModelConfig, read_model_config
from sagellm_engine.native import packing
from sagellm_engine.native.abi import Compute, KvKind, WeightKind
from sagellm_engine.native.key_scaling import channel_factors, even_keys
from sagellm_engine.native.kv import NativeKv
from sagellm_engine.native.model import NativeModel
from sagellm_engine.native.packing import packed_model
from support.sequences import sequence
from support.tiny_models import VOCAB_SIZE, make_tiny_model

NUM_TOKENS = 90
CHANNEL = 3
FACTOR = 64.0


def logits(folder: Path, kv: KvKind) -> Tensor:
    """All logits of a prompt, with weights kept in fp32."""
    config = read_model_config(folder)
    packed = packed_model(folder, config, WeightKind.F32)
    model = NativeModel(config, WeightKind.F32, Compute.F32, packed, NativeKv(config, 8, kv))
    seq = sequence([(13 * i * i + 7 * i) % VOCAB_SIZE for i in range(NUM_TOKENS)])
    seq.pages, seq.num_scheduled = [4, 1, 6, 0, 7, 2], NUM_TOKENS
    return model.forward([seq], range(NUM_TOKENS)).clone()


def with_key_outliers(folder: Path, target: Path) -> Path:
    """A copy of a model, one pair of key channels of every key head larger, and queries smaller by as much."""
    shutil.copytree(folder, target)
    config = read_model_config(folder)
    tensors = load_file(folder / "model.safetensors")
    kind = "norm" if config.qk_norm else "proj"
    for name, tensor in tensors.items():
        if f".k_{kind}." in name or f".q_{kind}." in name:
            heads = tensor.view(-1, config.head_dim, *tensor.shape[1:])
            factor = FACTOR if f".k_{kind}." in name else 1 / FACTOR
            heads[:, [CHANNEL, CHANNEL + config.head_dim // 2]] *= factor
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def do_nothing(*_: object) -> None:
    """In the place of what scales."""


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_scores_stay_the_same(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits are the same to the last bit with and without."""
    make_tiny_model(family, tmp_path / "plain")
    folder = with_key_outliers(tmp_path / "plain", tmp_path / "outliers")
    monkeypatch.setenv("SAGELLM_CACHE_DIR", str(tmp_path / "scaled"))
    scaled = logits(folder, KvKind.F32)
    monkeypatch.setattr(packing, "even_keys", do_nothing)
    monkeypatch.setenv("SAGELLM_CACHE_DIR", str(tmp_path / "unscaled"))
    assert torch.equal(logits(folder, KvKind.F32), scaled)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_int8_pages_bear_outliers(tmp_path: Path, family: str) -> None:
    """What INT8 pages lose is no more with outlier channels than without."""
    make_tiny_model(family, tmp_path / "plain")
    outliers = with_key_outliers(tmp_path / "plain", tmp_path / "outliers")

    def lost(folder: Path) -> float:
        return float((logits(folder, KvKind.INT8) - logits(folder, KvKind.F32)).square().mean().sqrt())

    assert lost(outliers) < 1.2 * lost(tmp_path / "plain")


def test_factors_are_powers_of_two_shared_by_pairs() -> None:
    """A channel 64 times as large is divided by 64, with the channel that it is turned with; a dead one stays."""
    size = torch.tensor([[1.0, 64.0, 1.0, 0.0, 1.0, 0.5, 1.0, 0.0]])
    assert channel_factors(size).tolist() == [[1.0, 1 / 64, 1.0, 1.0] * 2]


def test_nothing_changes_where_the_type_is_too_small() -> None:
    """Numbers of fp16 that would be rounded stay as they are."""
    config = ModelConfig.__new__(ModelConfig)
    for name, value in {"num_heads": 1, "num_kv_heads": 1, "head_dim": 4}.items():
        object.__setattr__(config, name, value)
    weight = torch.full((12, 2), 1e-4, dtype=torch.float16)
    weight[4] = 1.0
    before = weight.clone()
    even_keys(weight, None, torch.ones(2), (), config)
    assert torch.equal(weight, before)
