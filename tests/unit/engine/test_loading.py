"""Model folders: what is loaded, and what is refused before it is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sagellm_common.errors import InvalidArgument, NotFound, NotImplementedByServer, ResourceExhausted, SageError
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.factory import create_engine
from support.engine import request, run
from support.tiny_models import make_tiny_model

pytestmark = pytest.mark.acceptance(112)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama's folder."""
    make_tiny_model("llama", tmp_path)
    return tmp_path


def tokens(folder: Path, **options: object) -> list[int]:
    """Load a folder and generate a little."""
    config = EngineConfig(model_path=folder, backend="cpu", **{"num_pages": 64, **options})  # type: ignore[arg-type]
    return run(create_engine(config), [request([5, 6, 7], max_tokens=12, ignore_eos=True)])[0].tokens


def edit(folder: Path, **changes: object) -> None:
    """Change fields of config.json; None removes one."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_sharded_checkpoint(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A checkpoint in several files with an index loads as the one in a single file."""
    sharded = tmp_path_factory.mktemp("sharded")
    make_tiny_model("llama", sharded, max_shard_size="200KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert tokens(sharded) == tokens(folder)


def test_bf16_checkpoint_computes_in_fp32(folder: Path) -> None:
    """A bf16 checkpoint gives what its values give in fp32."""
    file = folder / "model.safetensors"
    rounded = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    save_file({name: tensor.float() for name, tensor in rounded.items()}, file)
    expected = tokens(folder)
    save_file(rounded, file)
    assert tokens(folder) == expected


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("claimed", ["float32", "bfloat16", "float16"])
def test_weights_are_what_they_are_not_what_the_config_says(folder: Path, stored: torch.dtype, claimed: str) -> None:
    """In fp32 the tokens are those of the stored values, whatever type config.json claims."""
    file, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    rounded = {name: tensor.to(stored) for name, tensor in load_file(file).items()}
    save_file({name: tensor.float() for name, tensor in rounded.items()}, file)
    expected = tokens(folder, kernels="torch", dtype="float32")
    save_file(rounded, file)
    (folder / "config.json").write_text(json.dumps({**config, "dtype": claimed}))
    assert tokens(folder, kernels="native", dtype="float32") == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_named_dtype_reaches_the_weights(folder: Path, dtype: str) -> None:
    """The weights have the type that was asked for."""
    config = EngineConfig(model_path=folder, backend="cpu", dtype=dtype, kernels="torch", num_pages=64)
    core = create_engine(config)
    assert core._runner._decoder._weights.norm.dtype is getattr(torch, dtype)  # type: ignore[attr-defined]
    assert core.info.kind.startswith("cpu-")
    assert core.info.kind.endswith(f"-{dtype}-llama")
    assert len(run(core, [request([5, 6, 7])])[0].tokens) > 0


def test_end_tokens(folder: Path) -> None:
    """The end tokens of generation_config.json count, one or several; else those of config.json."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    config = EngineConfig(model_path=folder, backend="cpu", num_pages=64)
    assert create_engine(config).info.eos_token_ids == {3, 4}
    (folder / "generation_config.json").unlink()
    assert create_engine(config).info.eos_token_ids == {1}


def test_older_rope_fields(folder: Path) -> None:
    """`rope_theta` and `rope_scaling`, as older files have them, mean what `rope_parameters` means."""
    scaling = {"factor": 2.0, "rope_type": "linear"}
    edit(folder, rope_parameters={"rope_theta": 500.0, **scaling})
    new = tokens(folder)
    edit(folder, rope_parameters=None, rope_theta=500.0, rope_scaling={"factor": 2.0, "type": "linear"})
    assert tokens(folder) == new
    edit(folder, rope_scaling=None)
    assert tokens(folder) != new


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _scramble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 4096)


def _drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")


def _reshape_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, folder / "model.safetensors")


def _int8_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"].to(torch.int8)
    save_file(weights, folder / "model.safetensors")


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _bad_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")


def _missing_shard(folder: Path) -> None:
    content = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_truncate, InvalidArgument, "damaged"),
        (_scramble, InvalidArgument, "damaged"),
        (_drop_tensor, InvalidArgument, "lacks the tensor 'model.layers.1.mlp.up_proj.weight'"),
        (lambda f: edit(f, tie_word_embeddings=False), InvalidArgument, "lacks the tensor 'lm_head.weight'"),
        (_reshape_tensor, InvalidArgument, "shape"),
        (_int8_tensor, InvalidArgument, "quantized layout"),
        (_pickle_only, NotFound, "pickled weights are refused"),
        (_bad_index, InvalidArgument, "damaged"),
        (_missing_shard, InvalidArgument, "missing or damaged"),
        (_no_config, NotFound, "not found"),
        (_broken_config, InvalidArgument, "JSON"),
        (lambda f: edit(f, model_type="mamba"), NotImplementedByServer, "'mamba'.*llama, qwen2, qwen3"),
        (lambda f: edit(f, hidden_act="gelu"), NotImplementedByServer, "gelu"),
        (lambda f: edit(f, quantization_config={"bits": 4}), NotImplementedByServer, "quantized"),
        (lambda f: edit(f, use_sliding_window=True), NotImplementedByServer, "sliding"),
        (lambda f: edit(f, rope_parameters={"rope_type": "yarn"}), NotImplementedByServer, "'yarn'"),
        (lambda f: edit(f, partial_rotary_factor=0.5), NotImplementedByServer, "partial"),
        (lambda f: edit(f, hidden_size=None), InvalidArgument, "hidden_size"),
        (lambda f: edit(f, vocab_size="many"), InvalidArgument, "many"),
    ],
    ids=str,
)
def test_what_cannot_run_is_refused(
    folder: Path, damage: Callable[[Path], None], error: type[SageError], message: str
) -> None:
    """A damaged, incomplete or unsupported model stops the load with a typed error that says what is wrong."""
    damage(folder)
    with pytest.raises(error, match=message):
        tokens(folder)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dtype": "int3"}, InvalidArgument),
        ({"kernels": "native", "dtype": "float16"}, NotImplementedByServer),
        ({"kernels": "fast"}, InvalidArgument),
        ({"quantization": "int3"}, InvalidArgument),
        ({"kernels": "torch", "quantization": "int8"}, NotImplementedByServer),
        ({"kernels": "torch", "kv_cache_dtype": "int8"}, NotImplementedByServer),
        ({"kv_cache_dtype": "int3"}, InvalidArgument),
        ({"max_model_len": 4096}, InvalidArgument),
        ({"device": "cuda:0"}, InvalidArgument),
        ({"num_pages": 31}, ResourceExhausted),
        ({"num_pages": None, "kv_cache_memory_bytes": 1000}, ResourceExhausted),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_model(folder: Path, options: dict[str, object], error: type[SageError]) -> None:
    """A type that does not exist, a context beyond the model's, or too few pages stop the load."""
    with pytest.raises(error):
        tokens(folder, **options)


@pytest.mark.acceptance(14)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), MemoryError()])
@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_out_of_memory_while_loading(
    folder: Path, error: Exception, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the weights do not fit, the error says what to change."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("sagellm_engine.weights.decoder.WeightLoader.load", fail)
    monkeypatch.setattr("sagellm_engine.backends.native_loader.packed_model", fail)
    with pytest.raises(ResourceExhausted, match='dtype="float16", device_map="auto" or quantization'):
        tokens(folder, kernels=kernels)


def test_pages_take_memory_only_when_written(folder: Path) -> None:
    """A large KV cache costs next to nothing until it is used."""

    def resident_kib() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    create_engine(EngineConfig(model_path=folder, backend="cpu", num_pages=64)).close()
    before = resident_kib()
    core = create_engine(EngineConfig(model_path=folder, backend="cpu", num_pages=100_000))  # 1.2 GB
    assert resident_kib() - before < 100_000
    assert len(run(core, [request([5, 6, 7])])[0].tokens) == 8
