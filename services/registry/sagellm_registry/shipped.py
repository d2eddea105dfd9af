"""The models that ship with the package: always there, never deleted."""

from pathlib import Path

from sagellm_registry.disk import CONFIG, row_of
from sagellm_registry.manifest import Row

BUILTIN = Path(__file__).parent / "builtin"


def builtin_path(model_id: str) -> Path | None:
    """Return the folder of a built-in model, None if there is none of that name."""
    return next((folder for folder in _folders() if folder.name == model_id), None)


def builtin_rows() -> list[Row]:
    """Return the rows of all built-in models."""
    return [row_of(folder, folder.name, "main", "builtin") for folder in _folders()]


def _folders() -> list[Path]:
    return sorted(folder for folder in BUILTIN.iterdir() if (folder / CONFIG).is_file()) if BUILTIN.is_dir() else []
