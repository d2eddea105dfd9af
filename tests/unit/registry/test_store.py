"""The store of models, without the bus."""

import json
import logging
import multiprocessing
import os
from pathlib import Path

import pytest

from sagellm_common.errors import InvalidArgument, NotFound, PermissionDenied
from sagellm_registry.ids import check_model_id, folder_of, model_of
from sagellm_registry.roots import model_root
from sagellm_registry.shipped import builtin_rows
from sagellm_registry.store import ModelStore
from support.model_files import model_files, write_model


def _own(store: ModelStore) -> list[str]:
    return [model.model_id for model in store.list_models() if model.source != "builtin"]


@pytest.mark.acceptance(32)
@pytest.mark.acceptance(33)
def test_the_root_comes_from_the_new_variable_then_the_old_one_then_xdg(tmp_path: Path) -> None:
    """SAGE_LLM_MODEL_ROOT wins over SAGE_VLLM_MODEL_ROOT, which warns; without both it is the XDG data directory."""
    both = {"SAGE_LLM_MODEL_ROOT": "/a", "SAGE_VLLM_MODEL_ROOT": "/b", "HOME": "/h"}
    assert model_root(both) == Path("/a")
    with pytest.warns(DeprecationWarning, match="SAGE_LLM_MODEL_ROOT"):
        assert model_root({"SAGE_VLLM_MODEL_ROOT": "/b", "HOME": "/h"}) == Path("/b")
    assert model_root({"HOME": "/h"}) == Path("/h/.local/share/sage/models")
    assert model_root({"HOME": "/h", "XDG_DATA_HOME": "/x"}) == Path("/x/sage/models")


@pytest.mark.acceptance(32)
@pytest.mark.acceptance(33)
@pytest.mark.parametrize("old", [".sage/models/vllm", ".local/share/sage/models/vllm"])
def test_models_below_the_old_default_roots_are_listed_and_usable(tmp_path: Path, store: ModelStore, old: str) -> None:
    """A model that an earlier version downloaded is found, under the id that its manifest gives it."""
    root = tmp_path / "home" / old
    folder = write_model(root / "org__name-7B__v2")
    write_model(root / "plain" / "model")
    (root / "metadata.json").write_text(
        json.dumps({"org/name-7B": {"path": str(folder), "revision": "v2", "size_bytes": 1, "tags": ["text"]}})
    )
    assert _own(store) == ["org/name-7B", "plain/model"]
    assert store.get_model_path("org/name-7B") == folder
    assert store.get_model("org/name-7B").revision == "v2"
    assert store.get_card("org/name-7B").parameters == 68
    store.delete_model("org/name-7B")
    assert _own(store) == ["plain/model"]
    assert not folder.exists()


@pytest.mark.acceptance(34)
def test_the_manifest_has_a_row_per_model(store: ModelStore, tmp_path: Path) -> None:
    """metadata.json holds id, revision, path, size, last_used and tags."""
    folder = write_model(tmp_path / "my-model")
    store.add_local(folder)
    [row] = json.loads((store.root / "metadata.json").read_text())["models"]
    assert {"id": "my-model", "revision": "main", "path": str(folder), "tags": {"type": "text"}}.items() <= row.items()
    assert row["size"] == sum(len(data) for data in model_files().values())
    assert row["last_used"] > 0


@pytest.mark.acceptance(35)
def test_an_empty_store_lists_only_what_ships(store: ModelStore) -> None:
    """Without downloads, the built-in models are listed and nothing else."""
    assert [model.model_id for model in store.list_models()] == [row.model_id for row in builtin_rows()]


@pytest.mark.acceptance(35)
@pytest.mark.acceptance(36)
def test_models_on_disk_are_listed_and_found(store: ModelStore) -> None:
    """Whole folders below the root are models, by id and by revision."""
    main, dev = write_model(store.root / "org/m"), write_model(store.root / "org/m@feature+x")
    assert [(m.model_id, m.revision) for m in store.list_models() if m.source != "builtin"] == [
        ("org/m", "feature/x"),
        ("org/m", "main"),
    ]
    assert store.get_model_path("org/m") == main
    assert store.get_model_path("org/m", "feature/x") == dev


def test_what_is_not_whole_is_not_listed(store: ModelStore) -> None:
    """Folders with a missing shard, a cut file, a running download or no config are no models."""
    files = model_files()
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    sharded = {"config.json": files["config.json"], "model.safetensors.index.json": index}
    write_model(store.root / "a", {**sharded, "model-1.safetensors": files["model.safetensors"]})
    write_model(store.root / "b", {**files, "model.safetensors": files["model.safetensors"][:-1]})
    write_model(store.root / "c", {**files, ".cache/huggingface/download/x.incomplete": b""})
    write_model(store.root / "d", {"model.safetensors": files["model.safetensors"]})
    assert _own(store) == []


@pytest.mark.acceptance(39)
def test_a_missing_model_says_how_to_get_it(store: ModelStore) -> None:
    """The error for a missing model names it and the command that downloads it."""
    with pytest.raises(NotFound, match=r"Model 'org/xxx' not found.*sagellm model download org/xxx"):
        store.get_model_path("org/xxx")


BAD_IDS = [
    "",
    "..",
    "../etc",
    "a/../b",
    "/abs",
    "a/b/c",
    "a//b",
    ".hidden",
    "a/.b",
    "a\\b",
    "a b",
    "a\0",
    "x" * 300,
    "é",
]


@pytest.mark.parametrize("model_id", BAD_IDS)
def test_no_id_reaches_outside_the_root(store: ModelStore, model_id: str) -> None:
    """Ids that are no `name` or `org/name` are refused before the disk is touched, for every operation."""
    for operation in (store.get_model_path, store.delete_model, store.touch_model, store.download_model):
        with pytest.raises(InvalidArgument, match="model id"):
            operation(model_id)
    with pytest.raises(InvalidArgument):
        store.get_model_path("a/b", "../../x")


def test_folders_and_ids_are_each_others_inverse() -> None:
    """A folder name gives back the id and revision that it was made of."""
    for key in [("a", "main"), ("org/n.a-m_e", "main"), ("org/n", "refs/pr/1"), ("org/n", "v1.0")]:
        check_model_id(key[0])
        assert model_of(folder_of(*key)) == key


@pytest.mark.acceptance(38)
def test_delete_removes_files_and_row(store: ModelStore) -> None:
    """After delete neither the files, nor the row, nor an empty organisation folder is left."""
    folder = write_model(store.root / "org/m")
    store.touch_model("org/m")
    store.delete_model("org/m")
    assert not folder.parent.exists()
    assert json.loads((store.root / "metadata.json").read_text())["models"] == []
    with pytest.raises(NotFound):
        store.delete_model("org/m")


@pytest.mark.acceptance(38)
def test_touch_and_tag_are_kept(store: ModelStore) -> None:
    """`last_used` and tags survive in a new store; a tag of None is removed."""
    write_model(store.root / "org/m")
    assert store.get_model("org/m").last_used == 0
    touched = store.touch_model("org/m").last_used
    store.tag_model("org/m", {"type": "embedding", "team": "a"})
    store.tag_model("org/m", {"team": None})
    again = ModelStore(store.root).get_model("org/m")
    assert (again.last_used, again.tags) == (touched, {"type": "embedding"})


def test_built_in_models_can_be_tagged_and_not_deleted(store: ModelStore) -> None:
    """A built-in model keeps its tags in the user's manifest and refuses to be deleted."""
    if not builtin_rows():
        pytest.skip("no built-in model has been exported yet")
    model_id = builtin_rows()[0].model_id
    store.tag_model(model_id, {"mine": "yes"})
    assert store.get_model(model_id).tags["mine"] == "yes"
    with pytest.raises(PermissionDenied, match="built in"):
        store.delete_model(model_id)


def test_local_folders_stay_where_they_are(tmp_path: Path) -> None:
    """Deleting an entered folder forgets it without removing it; those of SAGELLM_MODEL_DIRS refuse."""
    single, holder = write_model(tmp_path / "single"), tmp_path / "many"
    write_model(holder / "org/inner")
    store = ModelStore(tmp_path / "root", model_dirs=(single, holder))
    assert _own(store) == ["org/inner", "single"]
    for model_id in ("org/inner", "single"):
        with pytest.raises(PermissionDenied, match="SAGELLM_MODEL_DIRS"):
            store.delete_model(model_id)
        store.touch_model(model_id)
        with pytest.raises(PermissionDenied, match="SAGELLM_MODEL_DIRS"):
            store.delete_model(model_id)
    entered = write_model(tmp_path / "entered")
    store.add_local(entered)
    store.delete_model("entered")
    assert entered.is_dir()
    assert _own(store) == ["org/inner", "single"]


def test_a_damaged_folder_cannot_be_entered(store: ModelStore, tmp_path: Path) -> None:
    """`add_local` names the file that is damaged, and refuses a second folder for one id."""
    files = model_files()
    bad = write_model(tmp_path / "bad", {**files, "model.safetensors": files["model.safetensors"] + b"x"})
    with pytest.raises(InvalidArgument, match=r"model\.safetensors"):
        store.add_local(bad)
    store.add_local(write_model(tmp_path / "one"), "same")
    with pytest.raises(InvalidArgument, match="already"):
        store.add_local(write_model(tmp_path / "two"), "same")


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1, "models": [{}]}', '{"version": 1, "models": [{"id": 3}]}'])
def test_a_corrupt_manifest_is_set_aside_and_rebuilt(
    store: ModelStore, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """Whatever stands in a broken manifest, the models on disk are listed, and the file is kept aside."""
    write_model(store.root / "org/m")
    (store.root / "metadata.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert _own(store) == ["org/m"]
    assert "was corrupt" in caplog.text
    assert [path.read_text() for path in store.root.glob("metadata.json.corrupt-*")] == [text]
    store.touch_model("org/m")
    assert json.loads((store.root / "metadata.json").read_text())["models"][0]["id"] == "org/m"


def test_a_failed_write_leaves_the_old_manifest(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full while the manifest is written, the old one stays, whole."""
    write_model(store.root / "org/m")
    store.touch_model("org/m")
    before = (store.root / "metadata.json").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.tag_model("org/m", {"a": "b"})
    assert (store.root / "metadata.json").read_bytes() == before
    assert not list(store.root.glob(".metadata.json.*"))


def _tag_many(root: Path, name: str) -> None:
    store = ModelStore(root, old_roots=())
    for number in range(10):
        store.tag_model("org/m", {f"{name}{number}": "x"})


def test_processes_do_not_lose_each_others_changes(store: ModelStore) -> None:
    """Three processes that change one row at once leave all their tags in it."""
    write_model(store.root / "org/m")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_tag_many, args=(store.root, name)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(store.get_model("org/m").tags) == 31
