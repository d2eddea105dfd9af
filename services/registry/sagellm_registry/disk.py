"""What is on disk: which folders are whole models, and which models a folder holds."""

import json
from collections.abc import Iterator
from pathlib import Path

from sagellm_common.errors import InvalidArgument, SageError
from sagellm_registry.ids import check_model_id, model_of
from sagellm_registry.manifest import Row
from sagellm_registry.safetensors_header import read_header

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
STAGING = ".staging"


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model: those the index names, else all but a duplicate consolidated one.

    Raises InvalidArgument if there are none, or if the index is damaged or names a missing file.
    """
    if (folder / INDEX).is_file():
        return [_shard(folder, name) for name in sorted(_shard_names(folder / INDEX))]
    files = sorted(folder.glob("*.safetensors"))
    whole = [file for file in files if not file.name.startswith("consolidated")] or files
    if not whole:
        raise InvalidArgument(f"{folder} has no safetensors files")
    return whole


def _shard_names(index: Path) -> set[str]:
    try:
        return {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"{index} is damaged: it has no weight map") from error


def _shard(folder: Path, name: str) -> Path:
    if Path(name).name != name:
        raise InvalidArgument(f"{folder / INDEX} names a file outside its folder: {name[:80]!r}")
    if not (folder / name).is_file():
        raise InvalidArgument(f"{folder} is not whole: {name} is missing")
    return folder / name


def check_whole(folder: Path) -> None:
    """Raise InvalidArgument that says what is missing or damaged, if `folder` is no whole model."""
    if not (folder / CONFIG).is_file():
        raise InvalidArgument(f"{folder} is no model: it has no {CONFIG}")
    if any((folder / ".cache" / "huggingface" / "download").glob("*.incomplete")):
        raise InvalidArgument(f"{folder} is not whole: its download has not ended")
    for file in weight_files(folder):
        read_header(file)


def is_whole(folder: Path) -> bool:
    """Whether `folder` is a whole model."""
    try:
        check_whole(folder)
    except SageError:
        return False
    return True


def size_of(folder: Path) -> int:
    """Return the bytes of all files below `folder`; a file that vanishes meanwhile counts as nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def kind_of(folder: Path) -> str:
    """Return the tag "type": "embedding" for sentence-transformers folders, else "text"."""
    return "embedding" if (folder / "modules.json").is_file() else "text"


def row_of(folder: Path, model_id: str, revision: str, source: str) -> Row:
    """Return the row of a whole model on disk."""
    return Row(
        model_id=model_id,
        revision=revision,
        path=str(folder),
        size=size_of(folder),
        tags={"type": kind_of(folder)},
        source=source,
    )


def models_below(root: Path, source: str, *, flat: bool = False) -> Iterator[Row]:
    """Yield the whole models below `root`, in folders `name` or `org/name`, perhaps with `@revision`.

    `flat`: `org__name` means `org/name`, as in the roots of earlier versions.
    """
    for folder in _folders(root):
        candidates = [folder] if (folder / CONFIG).is_file() else _folders(folder)
        for candidate in candidates:
            name = candidate.relative_to(root).as_posix()
            row = _found(candidate, name.replace("__", "/", 1) if flat else name, source)
            if row is not None:
                yield row


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:  # absent or unreadable: it holds no models for us
        return []


def _found(folder: Path, name: str, source: str) -> Row | None:
    try:
        model_id, revision = model_of(name)
    except InvalidArgument:
        return None
    return row_of(folder, model_id, revision, source) if is_whole(folder) else None


def model_in(folder: Path, source: str) -> Row:
    """Return the row of one folder, under its own name; raises InvalidArgument if it is no whole model."""
    check_whole(folder)
    name = folder.resolve().name
    return row_of(folder, check_model_id(name), "main", source)
