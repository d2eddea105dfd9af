"""Moving what was downloaded and verified into its place, in one step."""

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from sagellm_common.errors import InvalidArgument, SageError
from sagellm_registry.cards import read_card
from sagellm_registry.disk import STAGING, check_whole, kind_of, size_of
from sagellm_registry.ids import folder_of
from sagellm_registry.manifest import Manifest, Row, sync_folder


def install(root: Path, manifest: Manifest, staged: Path, row: Row) -> Row:
    """Move the folder `staged` to where `row`'s model belongs below `root`, and enter the row.

    Raises InvalidArgument if the files are no model that could be served; `staged` is removed then.
    """
    target = root / folder_of(row.model_id, row.revision)
    row = row.model_copy(
        update={
            "path": str(target),
            "size": size_of(staged),
            "last_used": time.time(),
            "tags": {"type": kind_of(staged)},
        }
    )
    try:
        check_whole(staged)
        read_card(row.model_copy(update={"path": str(staged)}))
    except SageError:
        shutil.rmtree(staged)
        raise
    with manifest.change() as rows:
        _check_apart(target, rows.values())
        remove(root, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, target)
        sync_folder(target.parent)
        rows[row.key] = row
    return row


def remove(root: Path, folder: Path) -> None:
    """Take a folder away in one step, then delete it: no reader sees half a model."""
    if not folder.exists():
        return
    trash = root / STAGING / f"trash-{time.time_ns()}"
    trash.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder, trash)
    shutil.rmtree(trash)


def _check_apart(target: Path, rows: Iterable[Row]) -> None:
    """A model `a` and a model `a/b` cannot both be below one root: deleting one would delete the other."""
    for row in rows:
        path = Path(row.path)
        if path != target and (target in path.parents or path in target.parents):
            raise InvalidArgument(f"{target} and the model {row.model_id!r} in {path} would share a folder")
