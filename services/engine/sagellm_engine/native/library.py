"""Finds the library, or compiles it on first use, and declares its functions."""

import ctypes
import os
import platform
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sagellm_engine.native.abi import SIGNATURES
from sagellm_engine.native.build import BuildError, build, source_hash
from sagellm_engine.native.paths import cache_folder

PACKAGED = Path(__file__).parent / "lib"
ISA_VARIABLE = "SAGELLM_CPU_ISA"
_BUILDING = threading.Lock()


class LibraryMissing(Exception):
    """The kernels cannot be used here; says why."""


@cache
def library() -> Any:
    """Return the loaded library with typed functions; calls release the GIL.

    Raises LibraryMissing on another processor, without a compiler for a first use, or for an unknown instruction set
    in `SAGELLM_CPU_ISA`.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        raise LibraryMissing(f"there are no kernels for {platform.machine()} yet")
    loaded = ctypes.CDLL(str(_library_file()))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    wanted = os.environ.get(ISA_VARIABLE)
    if wanted and loaded.sage_set_isa(wanted.encode()):
        raise LibraryMissing(f"{ISA_VARIABLE} asks for {wanted}, which this processor lacks")
    if not loaded.sage_isa():
        raise LibraryMissing("the processor lacks AVX2")
    return loaded


def why_missing() -> str | None:
    """Return why the kernels cannot be used, or None."""
    try:
        library()
    except LibraryMissing as error:
        return str(error)
    return None


class _Threads:
    number = 1


def set_threads(number: int, processors: Sequence[int] = ()) -> None:
    """Compute with so many threads from now on, the caller's included; pinned to the processors, if any are named."""
    array = (ctypes.c_int32 * len(processors))(*processors)
    library().sage_set_threads(number, array, len(processors))
    _Threads.number = number


def num_threads() -> int:
    """Return how many threads compute."""
    return _Threads.number


def isa() -> str:
    """Return the name of the instruction set in use."""
    name: bytes = library().sage_isa()
    return name.decode()


def _library_file() -> Path:
    name = f"{source_hash()}.so"
    packaged = PACKAGED / name
    if packaged.is_file():
        return packaged
    built = cache_folder("native") / name
    with _BUILDING:
        if not built.is_file():
            try:
                build(built)
            except (BuildError, OSError) as error:
                raise LibraryMissing(f"the kernels cannot be compiled: {error}") from error
    return built
