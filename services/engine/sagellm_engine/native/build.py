"""Compiles the library: when the package is built, or on first use. Needs nothing but Python and a C++17 compiler.

python -m sagellm_engine.native.build [--output FILE]
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent / "csrc"
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-pthread",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # only the kernels' own fused multiply-adds, so that all row counts round alike
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-Wno-uninitialized",  # GCC's own intrinsics
    "-Wno-maybe-uninitialized",
)
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
UNITS: tuple[tuple[str, tuple[str, ...]], ...] = (
    # What the C++ library instantiates in several units is linked from the first one: the least instruction set.
    ("api.cpp", ()),
    ("pool.cpp", ()),
    ("isa_avx2.cpp", AVX2),
    ("isa_avx512.cpp", AVX512),
    ("isa_avx512_vnni.cpp", (*AVX512, "-mavx512vnni")),
    ("isa_avx512_bf16.cpp", (*AVX512, "-mavx512vnni", "-mavx512bf16")),
)
COMPILERS = ("c++", "g++", "clang++")


class BuildError(Exception):
    """The library cannot be compiled here; says why."""


def source_hash() -> str:
    """Return what identifies the sources and the way they are compiled."""
    digest = hashlib.sha256(repr((FLAGS, UNITS)).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def find_compiler() -> str:
    """Return a C++ compiler: `CXX`, or one on the PATH; raises BuildError."""
    named = os.environ.get("CXX")
    for candidate in (named,) if named else COMPILERS:
        found = shutil.which(candidate)
        if found:
            return found
    raise BuildError(f"there is no C++ compiler ({named or ', '.join(COMPILERS)}); install g++ or set CXX")


def build(output: Path) -> None:
    """Compile and link the library into a file; raises BuildError with the compiler's words."""
    compiler = find_compiler()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as name:
        folder = Path(name)

        def compile_unit(unit: tuple[str, tuple[str, ...]]) -> Path:
            target = folder / (unit[0] + ".o")
            _run([compiler, *FLAGS, *unit[1], "-c", str(SOURCES / unit[0]), "-o", str(target)])
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_unit, UNITS))
        library = folder / "library.so"
        _run([compiler, "-shared", "-pthread", *map(str, objects), "-o", str(library)])
        library.replace(output)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-2000:]}")


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "lib" / f"{source_hash()}.so")
    output = parser.parse_args().output
    build(output)
    sys.stdout.write(f"{output}\n")


if __name__ == "__main__":
    main()
