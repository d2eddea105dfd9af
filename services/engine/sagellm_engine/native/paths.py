"""Where compiled kernels and packed weights are kept between runs."""

import os
from pathlib import Path

VARIABLE = "SAGELLM_CACHE_DIR"


def cache_folder(name: str) -> Path:
    """Return a folder under `SAGELLM_CACHE_DIR`, else under the user's own cache, made if need be.

    Raises OSError where it cannot be made.
    """
    named = os.environ.get(VARIABLE)
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sagellm"
    folder = base.expanduser() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
