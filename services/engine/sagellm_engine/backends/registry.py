"""Backends by name. Nothing is imported before it is asked for, so that a CPU never imports CUDA code."""

from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol, cast

from sagellm_common.errors import NotFound, Unavailable
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.runner import Runner

ENTRY_POINT_GROUP = "sagellm.backends"
AUTO_ORDER = ("cuda", "ascend", "cpu")
"""What `auto` tries; `mock` answers only to its name."""

_BUILT_IN = {
    "cpu": "sagellm_engine.backends.cpu",
    "cuda": "sagellm_engine.backends.cuda",
    "mock": "sagellm_engine.backends.mock",
}


class Backend(Protocol):
    """A way to compute. A module with these two functions is one; an entry point names such an object."""

    def missing(self) -> str | None:
        """Return what this machine lacks for the backend, as the end of a sentence, or None if nothing."""
        ...

    def load(self, config: EngineConfig) -> Runner:
        """Load the model; may take long and much memory. Raises errors of the tree."""
        ...


def _providers() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}


def backend_names() -> list[str]:
    """Return every name that can be asked for, those of installed providers included."""
    return sorted({*_BUILT_IN, *_providers()})


def get_backend(name: str) -> Backend:
    """Import a backend by its name; raises NotFound that lists the known names."""
    if name in _BUILT_IN:
        return cast(Backend, import_module(_BUILT_IN[name]))
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        return cast(Backend, point.load())
    raise NotFound(
        f"there is no backend named {name!r}; known are auto, {', '.join(backend_names())}; others come with "
        f"packages that provide the entry point {ENTRY_POINT_GROUP}",
        param="backend",
    )


def choose_backend(name: str) -> tuple[str, Backend]:
    """Return the named backend, or the first usable one for `auto`.

    Raises NotFound for an unknown name and Unavailable for one that cannot run here; never falls back from a name.
    """
    if name != "auto":
        backend = get_backend(name)
        missing = backend.missing()
        if missing is not None:
            raise Unavailable(f"backend {name!r} cannot run here: {missing}", param="backend")
        return name, backend
    known = backend_names()
    for candidate in AUTO_ORDER:
        if candidate in known and (backend := get_backend(candidate)).missing() is None:
            return candidate, backend
    raise Unavailable("no backend can run here; install torch, or ask for 'mock'", param="backend")
