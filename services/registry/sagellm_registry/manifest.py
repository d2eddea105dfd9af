"""The manifest `metadata.json`: one row per model and revision, written atomically, shared between processes."""

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sagellm_common.contracts.registry import ModelInfo
from sagellm_registry.ids import DEFAULT_REVISION
from sagellm_registry.locks import locked

log = logging.getLogger(__name__)
Key = tuple[str, str]

FILE = "metadata.json"
VERSION = 1


class Row(ModelInfo):
    """A row of the manifest; `commit` is the hub's commit that the files come from, empty for local models."""

    commit: str = ""

    @property
    def key(self) -> Key:
        return self.model_id, self.revision

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(**{name: getattr(self, name) for name in ModelInfo.model_fields})


class Manifest:
    """The manifest below one root. Reads take no lock: the file is only ever replaced as a whole."""

    def __init__(self, root: Path) -> None:
        self.path = root / FILE
        self._lock = root / ".lock"

    def read(self) -> dict[Key, Row]:
        """Return all rows; a corrupt file is set aside with a message, and the rows start anew."""
        try:
            return _parse(self.path)
        except ValueError:
            with locked(self._lock):
                return self._read_or_set_aside()

    @contextmanager
    def change(self) -> Iterator[dict[Key, Row]]:
        """Yield the rows under the lock between processes, and write them when the block ends without an error."""
        with locked(self._lock):
            rows = self._read_or_set_aside()
            before = dict(rows)
            yield rows
            if rows != before:
                self._write(rows)

    def _read_or_set_aside(self) -> dict[Key, Row]:
        try:
            return _parse(self.path)
        except ValueError as error:
            aside = self.path.with_name(f"{FILE}.corrupt-{time.time_ns()}")
            os.replace(self.path, aside)
            log.warning(
                "%s was corrupt (%s) and has been moved to %s; the models on disk are listed again",
                self.path,
                error,
                aside,
            )
            return {}

    def _write(self, rows: Mapping[Key, Row]) -> None:
        body = {"version": VERSION, "models": [_to_json(row) for row in rows.values()]}
        write_atomically(self.path, json.dumps(body, indent=2, ensure_ascii=False).encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` as a whole: readers see the old file or the new one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames within a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _to_json(row: Row) -> dict[str, Any]:
    body = row.model_dump()
    return {"id": body.pop("model_id"), **body}


def _parse(path: Path) -> dict[Key, Row]:
    """Read a manifest; raises ValueError if it is corrupt (pydantic's and json's errors are ValueErrors)."""
    try:
        body = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    if not isinstance(body, dict):
        raise ValueError("it is no JSON object")
    rows = [_row(entry) for entry in body["models"]] if "version" in body else _old_rows(body)
    return {row.key: row for row in rows}


def _row(entry: Any) -> Row:
    if not isinstance(entry, dict) or "id" not in entry:
        raise ValueError("a row has no id")
    return Row.model_validate({**entry, "model_id": entry["id"]})


def _old_rows(body: Mapping[str, Any]) -> list[Row]:
    """Rows of the first format: model id → {path, revision, size_bytes, last_used, tags as a list}."""
    return [_old_row(model_id, entry) for model_id, entry in body.items()]


def _old_row(model_id: str, entry: Any) -> Row:
    if not isinstance(entry, dict):
        raise ValueError(f"the row of {model_id!r} is no object")
    tags = entry.get("tags") or []
    return Row(
        model_id=model_id,
        revision=entry.get("revision") or DEFAULT_REVISION,
        path=str(entry.get("path", "")),
        size=int(entry.get("size_bytes") or 0),
        last_used=float(entry.get("last_used") or 0.0),
        tags=tags if isinstance(tags, dict) else dict.fromkeys(tags, ""),
        source="hub",
    )
