"""Download one model from the hub into a staging folder, and verify it there."""

import errno
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.utils import tqdm as HubBar

from sagellm_common.errors import Cancelled, ResourceExhausted, Unavailable
from sagellm_registry.disk import size_of
from sagellm_registry.hub_errors import translated
from sagellm_registry.ids import folder_of
from sagellm_registry.plan import HubFile, Plan, make_plan
from sagellm_registry.watch import watched

OnProgress = Callable[[str, int, int], None]
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_MAX_WORKERS = 4


class Download:
    """One download of a model at a revision; the caller holds `lock_path` while it runs."""

    def __init__(self, model_id: str, revision: str, staging: Path, *, endpoint: str | None, stop: Event) -> None:
        self.model_id, self.revision = model_id, revision
        self._endpoint = endpoint or os.environ.get("HF_ENDPOINT") or None
        self._name = folder_of(model_id, revision).replace("/", "+")
        self._staging = staging
        self._stop = stop

    @property
    def lock_path(self) -> Path:
        """The lock that lets one download of this model run at a time, over all processes."""
        return self._staging / f"{self._name}.lock"

    def fetch(self, progress: bool, on_progress: OnProgress | None) -> tuple[Path, str]:
        """Return a folder that holds exactly the verified files, and the commit that they are of.

        After a fault of the network the folder stays, and the next attempt goes on from it; after a full disk it
        is removed.
        """
        with translated(self.model_id, self.revision, self._endpoint):
            plan = self._plan()
        folder = self._folder(plan)
        with self._room(folder, plan):
            self._fetch(folder, plan, progress, on_progress)
            self._verify(folder, plan, on_progress)
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        return folder, plan.commit

    def _plan(self) -> Plan:
        api = HfApi(endpoint=self._endpoint)
        commit = api.model_info(self.model_id, revision=self.revision).sha
        if not commit:
            raise Unavailable(f"the hub names no commit for {self.model_id} at {self.revision}")
        tree = api.list_repo_tree(self.model_id, recursive=True, revision=commit)
        return make_plan(self.model_id, commit, [_hub_file(entry) for entry in tree if hasattr(entry, "blob_id")])

    def _folder(self, plan: Plan) -> Path:
        """Return the staging folder of this commit, and remove those of older commits."""
        folder = self._staging / f"{self._name}+{plan.commit}"
        for other in self._staging.glob(f"{glob.escape(self._name)}+*"):
            if other.is_dir() and other != folder and other.name.startswith(f"{self._name}+"):
                shutil.rmtree(other)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def _room(self, folder: Path, plan: Plan) -> Iterator[None]:
        """Turn a full disk into ResourceExhausted that says what is needed, and leave nothing behind."""
        missing = plan.total_bytes - size_of(folder)
        free = shutil.disk_usage(folder).free
        try:
            if missing > free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield
        except OSError as error:
            if error.errno not in _DISK_FULL:
                reason = str(error).splitlines()[0].rstrip(".")
                raise Unavailable(f"downloading {self.model_id} failed: {reason}; run it again to go on") from error
            shutil.rmtree(folder, ignore_errors=True)
            raise ResourceExhausted(
                f"the disk of {self._staging.parent} is full: {self.model_id} needs {plan.total_bytes} bytes, "
                f"{free} are free. Free some space, or set SAGE_LLM_MODEL_ROOT to another disk."
            ) from error

    def _fetch(self, folder: Path, plan: Plan, progress: bool, on_progress: OnProgress | None) -> None:
        def report() -> None:
            if on_progress is not None:
                on_progress("downloading", min(size_of(folder), plan.total_bytes), plan.total_bytes)

        with watched(report), translated(self.model_id, self.revision, self._endpoint):
            snapshot_download(
                self.model_id,
                revision=plan.commit,
                local_dir=folder,
                allow_patterns=[glob.escape(file.name) for file in plan.files],
                endpoint=self._endpoint,
                max_workers=_MAX_WORKERS,
                tqdm_class=_bar(self._stop, shown=progress),
            )

    def _verify(self, folder: Path, plan: Plan, on_progress: OnProgress | None) -> None:
        """Check every file; a wrong one is removed, so that the next attempt fetches it anew."""
        done = 0
        for file in plan.files:
            _stop_if(self._stop)
            path = folder / file.name
            try:
                file.verify(path)
            except FileNotFoundError as error:
                raise Unavailable(f"downloading {self.model_id} failed: {file.name} is missing") from error
            except Unavailable as error:
                path.unlink()
                raise Unavailable(
                    f"downloading {self.model_id} failed: {error.message}; nothing was kept of that file, run it again"
                ) from error
            done += file.size
            if on_progress is not None:
                on_progress("verifying", done, plan.total_bytes)


def _hub_file(entry: Any) -> HubFile:
    lfs = entry.lfs
    return HubFile(entry.path, lfs.size if lfs else entry.size, entry.blob_id, lfs.sha256 if lfs else None)


def _stop_if(stop: Event) -> None:
    if stop.is_set():
        raise Cancelled("the download was stopped; run it again to go on")


def _bar(stop: Event, *, shown: bool) -> type[Any]:
    """Return the progress bar for the library: it is called for every chunk, so that it is also where to stop."""

    class Bar(HubBar):  # type: ignore[misc]  # the library is untyped
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **(kwargs if shown else {**kwargs, "disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            _stop_if(stop)
            updated: bool | None = super().update(n)
            return updated

    return Bar
