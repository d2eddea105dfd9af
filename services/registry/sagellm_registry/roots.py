"""Where models live: the root that is written to, and the older places that are still read."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

ROOT_VARIABLE = "SAGE_LLM_MODEL_ROOT"
OLD_ROOT_VARIABLE = "SAGE_VLLM_MODEL_ROOT"
DIRS_VARIABLE = "SAGELLM_MODEL_DIRS"


def model_root(environ: Mapping[str, str] | None = None) -> Path:
    """Return the root: SAGE_LLM_MODEL_ROOT, else SAGE_VLLM_MODEL_ROOT (deprecated), else the XDG data directory."""
    environ = os.environ if environ is None else environ
    if root := environ.get(ROOT_VARIABLE):
        return Path(root).expanduser().absolute()
    if root := environ.get(OLD_ROOT_VARIABLE):
        warnings.warn(f"{OLD_ROOT_VARIABLE} is deprecated: set {ROOT_VARIABLE}", DeprecationWarning, stacklevel=2)
        return Path(root).expanduser().absolute()
    return _data_home(environ) / "sage" / "models"


def old_default_roots(environ: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Return the default roots of earlier versions; models found there are listed and usable."""
    environ = os.environ if environ is None else environ
    return _home(environ) / ".sage" / "models" / "vllm", _data_home(environ) / "sage" / "models" / "vllm"


def model_dirs(environ: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Return the folders of SAGELLM_MODEL_DIRS, separated as in PATH; each is a model or holds models."""
    environ = os.environ if environ is None else environ
    return split_dirs(environ.get(DIRS_VARIABLE, ""))


def split_dirs(text: str) -> tuple[Path, ...]:
    """Split a list of folders as PATH is split; empty parts are left out."""
    return tuple(Path(part).expanduser().absolute() for part in text.split(os.pathsep) if part)


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def _data_home(environ: Mapping[str, str]) -> Path:
    """The XDG data directory; the standard says that a relative value is to be ignored."""
    value = environ.get("XDG_DATA_HOME", "")
    return Path(value) if value.startswith("/") else _home(environ) / ".local" / "share"
