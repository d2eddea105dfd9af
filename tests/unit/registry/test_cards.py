"""Cards: what is read from a model's files, and how damage is named."""

import json
import struct
from pathlib import Path

import pytest

from sagellm_common.errors import InvalidArgument
from sagellm_registry.store import ModelStore
from support.model_files import CONFIG, model_files, safetensors_bytes, write_model


def test_a_card_tells_what_a_service_needs(store: ModelStore) -> None:
    """Architecture, lengths, ids, dtype, parameters and template come from the files."""
    write_model(store.root / "org/m")
    card = store.get_card("org/m")
    assert (card.architecture, card.max_model_len, card.vocab_size) == ("LlamaForCausalLM", 128, 16)
    assert (card.eos_token_ids, card.bos_token_id) == ((2, 3, 5), 1)
    assert (card.dtype, card.parameters, card.has_chat_template) == ("bfloat16", 68, True)
    assert card.path == str(store.root / "org/m")


def test_shards_are_counted_together_and_duplicates_are_not(store: ModelStore) -> None:
    """The index says which files count; a consolidated copy beside them does not."""
    files = {key: value for key, value in model_files().items() if key != "model.safetensors"}
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    shard = safetensors_bytes({"a": (8, 2)})
    write_model(
        store.root / "org/m",
        {
            **files,
            "model.safetensors.index.json": json.dumps(index).encode(),
            "model-1.safetensors": shard,
            "model-2.safetensors": shard,
            "consolidated.safetensors": shard,
        },
    )
    assert store.get_card("org/m").parameters == 32


def test_dtype_and_ids_come_from_elsewhere_when_the_config_is_silent(store: ModelStore) -> None:
    """Without declarations the dtype is that of the weights, and a nested text config is read."""
    text = {key: value for key, value in CONFIG.items() if key not in ("torch_dtype", "architectures", "eos_token_id")}
    config = json.dumps({"architectures": ["XForConditionalGeneration"], "text_config": text}).encode()
    files = {"config.json": config, "model.safetensors": safetensors_bytes()}
    write_model(store.root / "org/m", files)
    card = store.get_card("org/m")
    assert (card.dtype, card.eos_token_ids, card.vocab_size) == ("bfloat16", (), 16)
    assert not card.has_chat_template


def test_sentence_transformers_are_tagged_as_embedding_models(store: ModelStore) -> None:
    """A folder with modules.json gets the tag "type": "embedding"."""
    write_model(store.root / "org/m", {**model_files(), "modules.json": b"[]"})
    assert store.get_card("org/m").tags == {"type": "embedding"}


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("config.json", b"{", r"config\.json cannot be read as JSON"),
        ("config.json", b"[]", r"config\.json holds no JSON object"),
        ("config.json", b'{"vocab_size": 3}', "architectures"),
        ("config.json", json.dumps({**CONFIG, "vocab_size": -1}).encode(), "vocab_size"),
        ("config.json", json.dumps({**CONFIG, "max_position_embeddings": "x"}).encode(), "max_position_embeddings"),
        ("generation_config.json", b"\xff", r"generation_config\.json"),
    ],
)
def test_a_damaged_config_is_named(store: ModelStore, name: str, data: bytes, said: str) -> None:
    """The error for a damaged JSON file names the file and what is wrong."""
    write_model(store.root / "org/m", {**model_files(), name: data})
    with pytest.raises(InvalidArgument, match=said):
        store.get_card("org/m")


def _with_header(header: object, data_bytes: int = 8) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


_TENSOR = {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 10) + b"{{{{{{{{{{",
        _with_header([]),
        _with_header({"a": 3}),
        _with_header({"a": {**_TENSOR, "dtype": "XX"}}),
        _with_header({"a": {**_TENSOR, "shape": [5]}}),
        _with_header({"a": {**_TENSOR, "shape": [-4], "data_offsets": [0, -8]}}),
        _with_header({"a": {**_TENSOR, "data_offsets": [8, 16]}}, 16),
        _with_header({"a": _TENSOR, "b": _TENSOR}),
        _with_header({"a": _TENSOR}, 7),
        _with_header({"a": _TENSOR}, 9),
    ],
)
def test_a_damaged_weight_file_is_named_without_loading_it(tmp_path: Path, data: bytes) -> None:
    """Cut, overlapping, oversized and nonsensical headers are all refused, with the file's name."""
    folder = write_model(tmp_path / "m", {**model_files(), "model.safetensors": data})
    with pytest.raises(InvalidArgument, match=r"model\.safetensors"):
        ModelStore(tmp_path / "root").add_local(folder)


def test_an_index_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    """A shard's name with a path in it is refused."""
    index = json.dumps({"weight_map": {"a": "../model.safetensors"}}).encode()
    folder = write_model(tmp_path / "m", {**model_files(), "model.safetensors.index.json": index})
    with pytest.raises(InvalidArgument, match="outside its folder"):
        ModelStore(tmp_path / "root").add_local(folder)
