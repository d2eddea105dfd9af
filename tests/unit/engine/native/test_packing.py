"""Packed weights: made once, found again, made anew when anything differs, and never in the way of a start."""

import ctypes
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sagellm_common.errors import InvalidArgument, NotFound
from sagellm_engine.backends.native_runner import NativeRunner
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.factory import create_engine
from sagellm_engine.models.config import ModelConfig, read_model_config
from sagellm_engine.native import packing
from sagellm_engine.native.abi import WeightKind
from sagellm_engine.native.library import library
from sagellm_engine.native.packed_file import PackedFile
from sagellm_engine.native.packing import BF12, packed_model
from support.engine import request
from support.tiny_models import make_tiny_model

AVX512_PANEL = 32


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SAGELLM_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, ModelConfig]:
    """Write a tiny model."""
    folder = tmp_path / "model"
    make_tiny_model("llama", folder)
    return folder, read_model_config(folder)


def packs(cache: Path) -> list[Path]:
    """List the packed files."""
    return sorted(cache.glob("packed/*.pack"))


def test_it_is_made_once(cache: Path, model: tuple[Path, ModelConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second start maps the first one's file and opens no checkpoint."""
    packed_model(*model, WeightKind.F32)
    [made] = packs(cache)

    def refuse(*_: object) -> None:
        raise AssertionError("it was packed again")

    monkeypatch.setattr(packing, "write_packed", refuse)
    assert "norm" in packed_model(*model, WeightKind.F32)
    assert packs(cache) == [made]


def test_each_precision_has_its_own(cache: Path, model: tuple[Path, ModelConfig]) -> None:
    """INT8 takes about a quarter of fp32, and both are kept."""
    sizes = [packed_model(*model, kind).num_bytes for kind in (WeightKind.F32, WeightKind.INT8)]
    assert len(packs(cache)) == 2
    assert sizes[1] < sizes[0] / 2


def test_other_weights_are_packed_anew(cache: Path, model: tuple[Path, ModelConfig]) -> None:
    """A checkpoint that was replaced is not served from the old file."""
    folder, config = model
    packed_model(folder, config, WeightKind.F32)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    packed_model(folder, config, WeightKind.F32)
    assert len(packs(cache)) == 2


def test_the_same_weights_elsewhere_are_found(cache: Path, model: tuple[Path, ModelConfig], tmp_path: Path) -> None:
    """A copy of the folder uses the same file: it goes by content."""
    folder, config = model
    packed_model(folder, config, WeightKind.F32)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    packed_model(copy, config, WeightKind.F32)
    assert len(packs(cache)) == 1


def cut(path: Path) -> None:
    """Lose the end of a file."""
    os.truncate(path, path.stat().st_size // 2)


def scribble(path: Path) -> None:
    """Lose the beginning of a file."""
    with path.open("r+b") as file:
        file.write(b"nonsense")


@pytest.mark.parametrize("damage", [cut, scribble])
def test_a_damaged_file_is_made_anew(
    cache: Path, model: tuple[Path, ModelConfig], damage: Callable[[Path], None]
) -> None:
    """A file that was cut short or overwritten is replaced."""
    size = packed_model(*model, WeightKind.F32).num_bytes
    [made] = packs(cache)
    damage(made)
    assert packed_model(*model, WeightKind.F32).num_bytes == size


def test_older_versions_are_removed(cache: Path, model: tuple[Path, ModelConfig]) -> None:
    """What another version of the kernels packed of the same weights goes when this one packs them."""
    packed_model(*model, WeightKind.F32)
    [made] = packs(cache)
    older = made.with_name(made.name.rsplit("-", 1)[0] + "-0123456789abcdef.pack")
    made.rename(older)
    packed_model(*model, WeightKind.F32)
    assert packs(cache) == [made]


def test_without_a_place_to_write(
    model: tuple[Path, ModelConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cache cannot be made, the weights are packed into memory."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a folder")
    monkeypatch.setenv("SAGELLM_CACHE_DIR", str(blocked))
    assert isinstance(packed_model(*model, WeightKind.F32), PackedFile)


def test_a_full_disk(cache: Path, model: tuple[Path, ModelConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk is full, the weights are packed into memory and nothing is left behind."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert "norm" in packed_model(*model, WeightKind.F32)
    assert not packs(cache)
    assert not list(cache.glob("packed/*.unfinished"))


def test_missing_and_broken_checkpoints(cache: Path, model: tuple[Path, ModelConfig], tmp_path: Path) -> None:
    """A folder without weights, and one whose weights lack a tensor, are refused; nothing is kept."""
    folder, config = model
    with pytest.raises(NotFound):
        packed_model(tmp_path, config, WeightKind.F32)
    other = tmp_path / "other"
    make_tiny_model("qwen2", other)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(InvalidArgument):
        packed_model(folder, config, WeightKind.F32)
    assert not packs(cache)


def _pack(folder: Path, config: ModelConfig) -> None:
    packed_model(folder, config, WeightKind.F32)


def test_many_starts_at_once(cache: Path, model: tuple[Path, ModelConfig]) -> None:
    """Engines that start together end up with one file."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_pack, args=model) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(packs(cache)) == 1
    assert not list(cache.glob("packed/*.unfinished"))


def test_what_is_packed_is_what_was_stored(model: tuple[Path, ModelConfig], cache: Path) -> None:
    """Norms are kept as they are, in fp32, with zeros behind."""
    packed = packed_model(*model, WeightKind.F32)
    size = model[1].hidden_size
    values = (ctypes.c_float * size).from_address(packed.address("layers.1.post_norm"))
    stored = load_file(model[0] / "model.safetensors")["model.layers.1.post_attention_layernorm.weight"]
    assert torch.equal(torch.tensor(list(values)), stored)


def test_bfloat16_takes_twelve_bits_where_its_exponents_are_few(cache: Path, tmp_path: Path) -> None:
    """A weight with numbers of all sizes stays as it is; every other one shrinks by a quarter."""
    make_tiny_model("llama", tmp_path)
    path, odd = tmp_path / "model.safetensors", "model.layers.1.mlp.down_proj.weight"
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    tensors[odd] *= torch.exp2(torch.randint(-60, 60, tensors[odd].shape).float()).bfloat16()
    save_file(tensors, path)
    packed = packed_model(tmp_path, read_model_config(tmp_path), WeightKind.BF16)
    names = ("embedding", *(f"layers.{i}.{part}" for i in range(3) for part in ("qkv", "o", "gate_up", "down")))
    is_short = library().sage_panel_width() == AVX512_PANEL
    assert [name + BF12 in packed for name in names] == [is_short and name != "layers.1.down" for name in names]


def test_rare_exponents_count_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are much larger than their neighbours, in embeddings too, give the logits that 16 bits give."""
    model = make_tiny_model("llama", tmp_path)
    with torch.no_grad():
        for matrix in (parameter for parameter in model.parameters() if parameter.ndim == 2):
            for exponent in range(2, 14):
                matrix.view(-1)[37 * exponent] *= 2.0**exponent
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    logits = []
    for name in ("short", "long"):
        monkeypatch.setenv("SAGELLM_CACHE_DIR", str(tmp_path / name))
        core = create_engine(EngineConfig(model_path=tmp_path, backend="cpu", kernels="native", num_pages=96))
        assert isinstance(core._runner, NativeRunner)
        seq = SequenceState(request([*range(2, 66)]), 0, stop_ids=frozenset(), max_model_len=512, order=0)
        seq.pages, seq.num_scheduled = [5, 2, 9, 0], 64
        logits.append(core._runner.all_logits(seq))
        monkeypatch.setattr(packing, "fits_bf12", lambda *_, **__: False)
    assert torch.allclose(*logits, rtol=0.0, atol=1e-3 * float(logits[1].abs().max()))
