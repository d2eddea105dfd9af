"""Create `.venv` and install sageLLM into it, with the pinned versions of constraints.txt.

    python3 tools/setup.py          what `sagellm up` needs
    python3 tools/setup.py --dev    and what the tests need

It needs nothing but a Python; when nothing has changed since the last time it ends at once. SAGELLM_TORCH=cuda takes
the default build of torch with CUDA, SAGELLM_TORCH=cpu the CPU build; without it the machine decides.
"""

from __future__ import annotations  # so that a Python that is too old gets as far as saying so

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.setup_progress import Failed, Progress  # noqa: E402  # the path is set just above

MIN_PYTHON = (3, 11)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_TIMEOUT_S = 5.0
STAMP = "sagellm-setup.json"
FIRST_DRY_RUN_PIP = (23, 3)
"""Older pips download whole wheels for a dry run."""


def stamp_of(root: Path, *, dev: bool) -> dict[str, object]:
    """Return what decides whether the environment is current."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((root / name).read_bytes())
    return {"inputs": digest.hexdigest(), "dev": dev, "torch": os.environ.get("SAGELLM_TORCH", "")}


def is_current(venv: Path, wanted: dict[str, object]) -> bool:
    """Whether the environment was made from the same inputs; one for tests serves for running, too."""
    try:
        found = json.loads((venv / STAMP).read_text())
    except (OSError, ValueError):
        return False
    same = found.get("inputs") == wanted["inputs"] and wanted["torch"] in ("", found.get("torch"))
    return same and (found.get("dev") or not wanted["dev"]) and python_of(venv).exists()


def python_of(venv: Path) -> Path:
    """The environment's Python."""
    return venv / "bin" / "python"


def newer_python() -> str | None:
    """Return a Python on the PATH that is new enough, when this one is not."""
    for minor in range(20, MIN_PYTHON[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found is not None:
            return found
    return None


def install_command(debian: str, fedora: str, mac: str) -> str:
    """Return the command that installs a package with this machine's package manager."""
    managers = (
        ("apt-get", f"sudo apt-get install -y {debian}"),
        ("dnf", f"sudo dnf install -y {fedora}"),
        ("brew", f"brew install {mac}"),
    )
    for program, command in managers:
        if shutil.which(program):
            return command
    return f"install {debian} with your system's package manager"


def check_prerequisites() -> list[str]:
    """Return what is missing, each as a sentence with the command that installs it; empty if nothing is."""
    missing = []
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        command = install_command(f"python{version}-venv", "python3", f"python@{version}")
        missing.append(f"Python's venv module is missing. Install it: {command}")
    return missing


def compiler_hint() -> str | None:
    """Return a sentence if there is no C++ compiler, which some parts can use."""
    if any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        return None
    return f"No C++ compiler found; everything runs without one. To have it: {install_command('g++', 'gcc-c++', 'gcc')}"


def has_nvidia_gpu() -> bool:
    """Whether an NVIDIA GPU answers."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and b"GPU" in answer.stdout


def pinned_torch(constraints: str) -> str:
    """Return the pinned version of torch."""
    for line in constraints.splitlines():
        name, separator, version = line.partition("==")
        if name.strip() == "torch" and separator:
            return version.strip()
    raise Failed("constraints.txt does not pin torch; make it anew with `.venv/bin/python tools/pin.py`")


def cuda_packages(report: dict[str, object]) -> list[str]:
    """Return the names of CUDA packages in the report of a pip dry run."""
    found = report.get("install")
    items = found if isinstance(found, list) else []
    names = [str(item["metadata"]["name"]).lower() for item in items]
    return sorted(name for name in names if name.startswith(("nvidia-", "cuda-")))


def cpu_index_answers() -> bool:
    """Whether PyTorch's own CPU index can be reached."""
    import urllib.request  # costs more than everything that a set-up without work does

    try:
        with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=PROBE_TIMEOUT_S) as response:
            return int(response.status) == 200
    except (OSError, ValueError):
        return False


def torch_arguments(progress: Progress, python: Path, version: str) -> list[str]:
    """Return pip's arguments for torch: the pin where it brings no CUDA or CUDA is wanted, else the CPU build.

    Raises Failed that says how to go on when only CUDA could be had.
    """
    wanted = os.environ.get("SAGELLM_TORCH", "")
    if wanted not in ("", "cpu", "cuda"):
        raise Failed(f"SAGELLM_TORCH is {wanted!r}; it can be cpu or cuda, or unset")
    if wanted == "cuda" or (not wanted and has_nvidia_gpu()):
        return [f"torch=={version}"]
    if not wanted:
        with_cuda = cuda_packages(dry_run(progress, python, version))
        if not with_cuda:
            return [f"torch=={version}"]
        progress.say(f"torch {version} would bring {len(with_cuda)} CUDA packages; taking the CPU build instead")
    if cpu_index_answers():
        return [f"torch=={version}+cpu", "--extra-index-url", CPU_INDEX]
    raise Failed(
        f"this machine has no NVIDIA GPU, the usual torch brings gigabytes of CUDA, and {CPU_INDEX} does not answer.\n"
        "Go on with one of:\n"
        "  SAGELLM_TORCH=cuda make run      accept the CUDA build\n"
        "  make run                         again, once the CPU index can be reached (proxy: HTTPS_PROXY)"
    )


def dry_run(progress: Progress, python: Path, version: str) -> dict[str, object]:
    """Return pip's report on what installing the pinned torch would bring; nothing is downloaded."""
    report = python.parent.parent / "torch-report.json"
    pip = [str(python), "-m", "pip", "install", "--dry-run", "--ignore-installed", "--report", str(report)]
    progress.run("asking what torch would bring", [*pip, f"torch=={version}"])
    found: dict[str, object] = json.loads(report.read_text())
    report.unlink()
    return found


def renew_old_pip(progress: Progress, python: Path) -> None:
    """Renew a pip that would download whole wheels for a dry run."""
    answer = subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True, text=True)
    numbers = answer.stdout.split()[1].split(".")[:2] if answer.returncode == 0 else ["0", "0"]
    if tuple(int(number) for number in numbers) < FIRST_DRY_RUN_PIP:
        progress.run("renewing pip", [str(python), "-m", "pip", "install", "--upgrade", "pip"])


def has_torch(python: Path, version: str) -> bool:
    """Whether the environment has the pinned torch already, of either build."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    return answer.stdout.strip().partition("+")[0] == version


def install(progress: Progress, root: Path, venv: Path, *, dev: bool) -> None:
    """Make the environment and install everything into it."""
    python = python_of(venv)
    if not python.exists():
        progress.run("creating .venv", [sys.executable, "-m", "venv", str(venv)])
    renew_old_pip(progress, python)
    version = pinned_torch((root / "constraints.txt").read_text())
    # Python compiles what is really imported; compiling all of torch and transformers first takes minutes.
    pip = [str(python), "-m", "pip", "install", "--no-compile", "-c", str(root / "constraints.txt")]
    if os.environ.get("SAGELLM_TORCH") or not has_torch(python, version):
        progress.run("installing torch", [*pip, *torch_arguments(progress, python, version)])
    extra = "dev" if dev else "all"
    progress.run(f"installing sagellm[{extra}]", [*pip, "-e", f"{root}[{extra}]"])


def main(arguments: list[str]) -> int:
    """Set up; returns the exit code."""
    parser = argparse.ArgumentParser(description="Create .venv and install sageLLM into it.")
    parser.add_argument("--dev", action="store_true", help="also what the tests need")
    dev = parser.parse_args(arguments).dev
    venv, wanted = ROOT / ".venv", stamp_of(ROOT, dev=dev)
    if is_current(venv, wanted):
        return 0
    progress, began = Progress(), time.monotonic()
    try:
        if missing := check_prerequisites():
            raise Failed("\n".join(missing))
        if hint := compiler_hint():
            progress.say(hint)
        install(progress, ROOT, venv, dev=dev)
    except Failed as error:
        progress.fail(str(error))
        return 1
    (venv / STAMP).write_text(json.dumps(wanted))
    progress.say(f"set up in {time.monotonic() - began:.0f} s")
    return 0


def require_python() -> None:
    """Go on with a newer Python if this one is too old; end with what to install if there is none."""
    if sys.version_info >= MIN_PYTHON:
        return
    newer = newer_python()
    if newer is not None:
        os.execv(newer, [newer, *sys.argv])
    command = install_command("python3.11 python3.11-venv", "python3.11", "python@3.12")
    sys.stderr.write(f"This is Python {sys.version.split()[0]}; sageLLM needs 3.11 or newer: {command}\n")
    raise SystemExit(1)


if __name__ == "__main__":
    require_python()
    raise SystemExit(main(sys.argv[1:]))
