"""Downloads from a local server that speaks the hub's API."""

import errno
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from sagellm_common.errors import (
    Cancelled,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SageError,
    Unauthenticated,
    Unavailable,
)
from sagellm_registry.plan import HubFile, make_plan
from sagellm_registry.progress import Throttle
from sagellm_registry.store import ModelStore
from support.hub import Hub, Repo
from support.model_files import model_files

BIG = {"model.embed_tokens.weight": (3 << 20, 4)}


def _listed(store: ModelStore) -> list[str]:
    return [model.model_id for model in store.list_models() if model.source != "builtin"]


def _nothing_left(store: ModelStore) -> bool:
    folders = [path for path in (store.root / ".staging").glob("*") if path.is_dir()]
    return _listed(store) == [] and folders == []


@pytest.mark.acceptance(37)
def test_a_download_is_listed_with_its_commit_and_only_what_serving_needs(store: ModelStore, hub: Hub) -> None:
    """A model arrives whole, with its row; pickles and READMEs stay behind; a second call fetches nothing."""
    extra = {"README.md": b"hello", "pytorch_model.bin": b"pickle", "original/consolidated.safetensors": b"x"}
    hub.repos["org/m"] = Repo({**model_files(), **extra})
    seen: list[tuple[str, int, int]] = []
    info = store.download_model("org/m", on_progress=lambda *report: seen.append(report))
    assert {path.name for path in Path(info.path).iterdir()} == set(model_files())
    assert (info.size, info.tags, info.source) == (sum(map(len, model_files().values())), {"type": "text"}, "hub")
    assert store.get_model_path("org/m", "a" * 40) == Path(info.path) == store.root / "org/m"
    assert [phase for phase, done, total in seen if done == total][-1] == "verifying"
    assert {phase for phase, _, _ in seen} == {"downloading", "verifying"}
    fetched = len(hub.fetched)
    assert store.download_model("org/m") == info
    assert len(hub.fetched) == fetched


@pytest.mark.acceptance(37)
def test_another_revision_lies_beside_main(store: ModelStore, hub: Hub) -> None:
    """Two revisions are two rows; `main` is meant when none is named."""
    hub.repos["org/m"] = Repo(model_files(), revisions=("main", "v2"))
    store.download_model("org/m", "v2")
    assert store.get_model("org/m").revision == "v2"
    store.download_model("org/m")
    assert store.get_model("org/m").revision == "main"
    assert _listed(store) == ["org/m", "org/m"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_hash_is_refused_and_nothing_is_listed(store: ModelStore, hub: Hub, name: str) -> None:
    """Bytes that do not have the announced hash never become a model; the next attempt fetches that file anew."""
    files = model_files()
    wrong = files[name][:-1] + bytes([files[name][-1] ^ 1])
    repo = hub.repos["org/m"] = Repo(files, lies={name: wrong})
    with pytest.raises(Unavailable, match=f"{name} does not have the hash"):
        store.download_model("org/m")
    assert _listed(store) == []
    repo.lies.clear()
    hub.fetched.clear()
    store.download_model("org/m")
    assert [file for file, _ in hub.fetched] == [name]


def test_a_cut_connection_is_resumed_where_it_broke(store: ModelStore, hub: Hub) -> None:
    """After a cut in the middle of a file, the rest is asked for by range, and the file verifies."""
    files = model_files(shapes=BIG)
    hub.repos["org/m"] = Repo(files, cuts={"model.safetensors": [12_000_000]})
    info = store.download_model("org/m")
    ranges = [wanted for file, wanted in hub.fetched if file == "model.safetensors"]
    assert ranges[0] == ""
    assert len(ranges) == 2
    assert 0 < int(ranges[1].removeprefix("bytes=").rstrip("-")) <= 12_000_000
    assert Path(info.path, "model.safetensors").read_bytes() == files["model.safetensors"]


def test_a_stopped_download_goes_on_with_what_it_has(store: ModelStore, hub: Hub) -> None:
    """A stop leaves nothing listed; the next download does not fetch the finished files again."""
    held = threading.Event()
    repo = hub.repos["org/m"] = Repo(model_files(), held=held)
    stop = threading.Event()

    def stop_late() -> None:
        hub.asked.wait(30)
        while not list((store.root / ".staging").glob("*/tokenizer.json")):
            pass
        stop.set()
        held.set()

    stopper = threading.Thread(target=stop_late)
    stopper.start()
    with pytest.raises(Cancelled):
        store.download_model("org/m", stop=stop)
    stopper.join()
    assert _listed(store) == []
    repo.held = None
    hub.fetched.clear()
    store.download_model("org/m")
    assert "tokenizer.json" not in [file for file, _ in hub.fetched]
    assert _listed(store) == ["org/m"]


@pytest.mark.parametrize(
    ("status", "code", "error", "said"),
    [
        (404, "RepoNotFound", NotFound, "Model 'org/m' not found"),
        (401, "RepoNotFound", NotFound, "set HF_TOKEN"),
        (401, "", (Unauthenticated, NotFound), "HF_TOKEN"),
        (403, "GatedRepo", PermissionDenied, "gated"),
        (403, "", PermissionDenied, "lacks the right"),
        (500, "", Unavailable, "status 500"),
    ],
)
def test_the_hubs_refusals_are_typed(
    store: ModelStore, hub: Hub, status: int, code: str, error: type[SageError], said: str
) -> None:
    """Missing, gated, forbidden and failing repositories each end in an error that says what to do."""
    hub.repos["org/m"] = Repo(model_files(), status=status, error_code=code)
    with pytest.raises(error, match=said):
        store.download_model("org/m")
    assert _nothing_left(store)


def test_an_unknown_revision_is_not_found(store: ModelStore, hub: Hub) -> None:
    """The error names the revision that the repository lacks."""
    hub.repos["org/m"] = Repo(model_files())
    with pytest.raises(NotFound, match="no revision 'v9'"):
        store.download_model("org/m", "v9")


def test_an_unreachable_hub_is_unavailable(store: ModelStore, hub: Hub) -> None:
    """With nobody listening, the error names the address."""
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        store.download_model("org/m", endpoint="http://127.0.0.1:9")


def test_pickled_weights_are_refused_before_anything_is_fetched(store: ModelStore, hub: Hub) -> None:
    """A repository with pickled weights only is refused by name of the file, without a download."""
    hub.repos["org/m"] = Repo({"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(InvalidArgument, match=r"pickled weights \(pytorch_model\.bin\)"):
        store.download_model("org/m")
    assert hub.fetched == []
    assert _nothing_left(store)


def test_a_damaged_model_upstream_is_refused(store: ModelStore, hub: Hub) -> None:
    """Files whose hashes are right and whose content is no model are not installed."""
    hub.repos["org/m"] = Repo({**model_files(), "model.safetensors": b"not a weight file"})
    with pytest.raises(InvalidArgument, match=r"model\.safetensors"):
        store.download_model("org/m")
    assert _nothing_left(store)


def test_too_little_room_is_found_before_the_download(
    store: ModelStore, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the files cannot fit, nothing is fetched, and the error says how many bytes are needed."""
    hub.repos["org/m"] = Repo(model_files())
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1000, 990, 10))
    needed = sum(map(len, model_files().values()))
    with pytest.raises(ResourceExhausted, match=f"needs {needed} bytes, 10 are free"):
        store.download_model("org/m")
    assert hub.fetched == []
    assert _nothing_left(store)


def test_a_disk_that_fills_up_leaves_nothing_behind(
    store: ModelStore, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC in the middle of a write ends in ResourceExhausted with the bytes needed, and the staging is gone."""
    hub.repos["org/m"] = Repo(model_files())

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(ResourceExhausted, match=r"needs \d+ bytes"):
        store.download_model("org/m")
    assert _nothing_left(store)


def test_two_downloads_at_once_fetch_once(store: ModelStore, hub: Hub) -> None:
    """A second download of the same model waits for the first and takes what it has brought."""
    hub.repos["org/m"] = Repo(model_files(), held=threading.Event())
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(store.download_model("org/m"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert hub.asked.wait(30)
    held = hub.repos["org/m"].held
    assert held is not None
    held.set()
    for thread in threads:
        thread.join(30)
    assert results[0] == results[1]
    assert [file for file, _ in hub.fetched].count("model.safetensors") == 1


def test_a_model_cannot_lie_inside_another(store: ModelStore, hub: Hub) -> None:
    """A download whose folder would contain another model's is refused."""
    hub.repos["org/m"] = Repo(model_files())
    store.download_model("org/m")
    from sagellm_registry.install import install
    from sagellm_registry.manifest import Manifest, Row
    from support.model_files import write_model

    staged = write_model(store.root / ".staging" / "x")
    with pytest.raises(InvalidArgument, match="share a folder"):
        install(store.root, Manifest(store.root), staged, Row(model_id="org", path=str(staged)))
    assert _listed(store) == ["org/m"]


@pytest.mark.parametrize("name", ["../x.json", "/etc/x.json", "a\\..\\x.json"])
def test_a_hub_cannot_write_outside_the_folder(name: str) -> None:
    """File names that lead elsewhere are refused, whatever the hub says."""
    with pytest.raises(InvalidArgument, match="outside its folder"):
        make_plan("org/m", "c", [HubFile(name, 1, "", None), HubFile("model.safetensors", 1, "", None)])


def test_a_consolidated_duplicate_is_not_fetched() -> None:
    """Of two forms of the same weights only the sharded one is planned; a consolidated one alone is taken."""
    names = ["config.json", "model-1.safetensors", "consolidated.safetensors"]
    files = [HubFile(name, 1, "", None) for name in names]
    assert [file.name for file in make_plan("m", "c", files).files] == names[:2]
    assert len(make_plan("m", "c", [files[0], files[2]]).files) == 2


def test_progress_is_throttled() -> None:
    """The first report, each new phase, and the last bytes pass; between them one per interval."""
    throttle = Throttle(interval_s=1.0)
    assert throttle.admits("downloading", 0, 10, now=0.0)
    assert not throttle.admits("downloading", 1, 10, now=0.5)
    assert throttle.admits("downloading", 2, 10, now=1.5)
    assert throttle.admits("downloading", 10, 10, now=1.6)
    assert not throttle.admits("downloading", 10, 10, now=9.0)
    assert throttle.admits("verifying", 5, 10, now=9.1)
