"""The models on this machine: list, find, download, delete, touch, tag. Usable without the bus."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event

from sagellm_common.contracts.registry import ModelCard, ModelInfo
from sagellm_common.errors import InvalidArgument, NotFound, PermissionDenied
from sagellm_registry import roots
from sagellm_registry.cards import read_card
from sagellm_registry.disk import STAGING, check_whole, kind_of, models_below, size_of
from sagellm_registry.ids import DEFAULT_REVISION, check_model_id, check_revision
from sagellm_registry.install import install, remove
from sagellm_registry.listing import choose, merged, models_of_dirs, old_models
from sagellm_registry.locks import locked
from sagellm_registry.manifest import Key, Manifest, Row
from sagellm_registry.shipped import builtin_rows

OnProgress = Callable[[str, int, int], None]
"""Called with the phase ("downloading" or "verifying"), bytes done and bytes in all; from any thread."""


class ModelStore:
    """The models below one root, the built-in ones, and those of further folders that are only read.

    Methods block on the disk, `download_model` on the network too; processes and threads may share a root.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        model_dirs: Sequence[Path] | None = None,
        old_roots: Sequence[Path] | None = None,
    ) -> None:
        """What is not given comes from the environment: SAGE_LLM_MODEL_ROOT, SAGELLM_MODEL_DIRS."""
        self.root = Path(root).absolute() if root is not None else roots.model_root()
        self.model_dirs = tuple(roots.model_dirs() if model_dirs is None else model_dirs)
        old = roots.old_default_roots() if old_roots is None else old_roots
        self.old_roots = tuple(path for path in old if path != self.root)
        self._manifest = Manifest(self.root)

    # reading

    def list_models(self) -> list[ModelInfo]:
        """Return every whole model, built-in ones first."""
        rows = self._models().values()
        return [row.info for row in sorted(rows, key=lambda row: (row.source != "builtin", row.key))]

    def get_model(self, model_id: str, revision: str | None = None) -> ModelInfo:
        """Return the row of a model; raises NotFound with how to download it."""
        return self._row(model_id, revision).info

    def get_model_path(self, model_id: str, revision: str | None = None) -> Path:
        """Return the folder of a model; raises NotFound with how to download it."""
        return Path(self._row(model_id, revision).path)

    def get_commit(self, model_id: str, revision: str | None = None) -> str:
        """Return the hub's commit of a model's files, empty if they come from elsewhere."""
        return self._row(model_id, revision).commit

    def get_card(self, model_id: str, revision: str | None = None) -> ModelCard:
        """Return the card of a model; raises InvalidArgument that names a damaged file."""
        return read_card(self._row(model_id, revision))

    def has_model(self, model_id: str, revision: str | None = None) -> bool:
        """Whether the model is here."""
        return self._find(model_id, revision) is not None

    def _models(self) -> dict[Key, Row]:
        found = [*models_below(self.root, "hub"), *models_of_dirs(self.model_dirs), *old_models(self.old_roots)]
        return merged(builtin_rows(), self._manifest.read(), found)

    def _find(self, model_id: str, revision: str | None) -> Row | None:
        check_model_id(model_id)
        if revision is not None:
            check_revision(revision)
        return choose(self._models().values(), model_id, revision)

    def _row(self, model_id: str, revision: str | None) -> Row:
        row = self._find(model_id, revision)
        if row is None:
            raise NotFound(_not_found(model_id, revision), param="model_id")
        return row

    # changing

    def touch_model(self, model_id: str, revision: str | None = None) -> ModelInfo:
        """Set `last_used` to now; returns the row."""
        return self._update(model_id, revision, lambda row: {"last_used": time.time()})

    def tag_model(self, model_id: str, tags: Mapping[str, str | None], revision: str | None = None) -> ModelInfo:
        """Set tags; a value of None removes one; returns the row."""
        return self._update(model_id, revision, lambda row: {"tags": _changed(row.tags, tags)})

    def _update(self, model_id: str, revision: str | None, change: Callable[[Row], Mapping[str, object]]) -> ModelInfo:
        key = self._row(model_id, revision).key
        with self._manifest.change() as rows:
            current = self._row(*key)
            rows[key] = current.model_copy(update=dict(change(rows.get(key, current))))
        return rows[key].info

    def add_local(self, path: Path | str, model_id: str | None = None) -> ModelInfo:
        """Enter a folder that stays where it is; raises InvalidArgument that says what is missing or damaged."""
        folder = Path(path).expanduser().resolve()
        check_whole(folder)
        name = check_model_id(model_id or folder.name)
        row = Row(
            model_id=name,
            path=str(folder),
            size=size_of(folder),
            last_used=time.time(),
            tags={"type": kind_of(folder)},
            source="local",
        )
        read_card(row)
        with self._manifest.change() as rows:
            known = self._find(name, DEFAULT_REVISION)
            if known is not None and known.path != row.path:
                raise InvalidArgument(f"there is a model {name!r} already, in {known.path}", param="model_id")
            rows[row.key] = row
        return row.info

    def delete_model(self, model_id: str, revision: str | None = None) -> ModelInfo:
        """Remove files and row; of a folder entered with `add_local` only the row; returns what was removed.

        Raises PermissionDenied for built-in models and for those of SAGELLM_MODEL_DIRS.
        """
        row = self._row(model_id, revision)
        if row.source == "builtin":
            raise PermissionDenied(f"Model '{model_id}' is built in and cannot be deleted", param="model_id")
        folder = Path(row.path)
        with self._manifest.change() as rows:
            entered = rows.pop(row.key, None) is not None
            if self._is_ours(folder):
                remove(self.root, folder)
                self._drop_if_empty(folder.parent)
            elif not entered or choose(models_of_dirs(self.model_dirs), *row.key) is not None:
                raise PermissionDenied(f"{folder} belongs to SAGELLM_MODEL_DIRS: remove it there", param="model_id")
        return row.info

    def _is_ours(self, folder: Path) -> bool:
        return any(root in folder.parents for root in (self.root, *self.old_roots))

    def _drop_if_empty(self, organisation: Path) -> None:
        roots = (self.root, *self.old_roots)
        if organisation not in roots and organisation.is_dir() and not any(organisation.iterdir()):
            organisation.rmdir()

    # downloading

    def download_model(
        self,
        model_id: str,
        revision: str | None = None,
        progress: bool = True,
        on_progress: OnProgress | None = None,
        *,
        endpoint: str | None = None,
        stop: Event | None = None,
    ) -> ModelInfo:
        """Download a model from the hub unless it is here; returns its row.

        The files are fetched into a staging folder on the same disk, each is verified by size and hash, and only
        then does the folder move into place and its row into the manifest. A second download of the same model
        waits for the first; an interrupted one goes on where it was. `progress` shows bars on a terminal;
        `stop` ends the download with Cancelled. Raises NotFound, PermissionDenied (gated), Unauthenticated,
        InvalidArgument (no safetensors), ResourceExhausted (disk full) or Unavailable (hub unreachable, or what
        came is not what the hub announced).
        """
        from sagellm_registry.download import Download  # huggingface_hub is loaded only by those who download

        check_model_id(model_id)
        wanted = check_revision(revision or DEFAULT_REVISION)
        download = Download(model_id, wanted, self.root / STAGING, endpoint=endpoint, stop=stop or Event())
        with locked(download.lock_path):
            present = self._find(model_id, wanted)
            if present is not None:
                return present.info
            staged, commit = download.fetch(progress, on_progress)
            row = Row(model_id=model_id, revision=wanted, path=str(staged), source="hub", commit=commit)
            return install(self.root, self._manifest, staged, row).info


def _not_found(model_id: str, revision: str | None) -> str:
    at = f" at revision '{revision}'" if revision else ""
    return (
        f"Model '{model_id}' not found{at}. Download it with `sagellm model download {model_id}`, "
        "or see what is here with `sagellm model list`."
    )


def _changed(tags: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in {**tags, **changes}.items() if value is not None}
