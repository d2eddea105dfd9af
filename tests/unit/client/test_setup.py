"""The set-up script: what it decides, without installing anything."""

import json
import re
import sys
from pathlib import Path

import pytest

from tools import setup
from tools.setup_progress import Failed, Progress, detail_of

ROOT = Path(__file__).parents[3]


def report(*names: str) -> dict[str, object]:
    """A pip dry run's report with these packages."""
    return {"install": [{"metadata": {"name": name, "version": "1"}} for name in names]}


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "has_nvidia_gpu", lambda: False)
    monkeypatch.delenv("SAGELLM_TORCH", raising=False)


def decide(monkeypatch: pytest.MonkeyPatch, *names: str, cpu_index: bool = False) -> list[str]:
    """pip's arguments for torch when the dry run reports these packages."""
    monkeypatch.setattr(setup, "dry_run", lambda *_: report(*names))
    monkeypatch.setattr(setup, "cpu_index_answers", lambda: cpu_index)
    return setup.torch_arguments(Progress(), Path("python"), "2.13.0")


def test_the_pin_is_taken_where_it_brings_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run without CUDA packages decides for the pin; the CPU index is not needed."""
    assert decide(monkeypatch, "torch", "sympy") == ["torch==2.13.0"]


def test_the_cpu_build_is_taken_where_the_pin_would_bring_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CUDA packages in the report, PyTorch's own CPU index is used."""
    arguments = decide(monkeypatch, "torch", "nvidia-cublas-cu13", cpu_index=True)
    assert arguments == ["torch==2.13.0+cpu", "--extra-index-url", setup.CPU_INDEX]


def test_gigabytes_are_never_downloaded_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only CUDA could be had the set-up stops and says how to go on."""
    with pytest.raises(Failed, match="SAGELLM_TORCH=cuda make run"):
        decide(monkeypatch, "torch", "nvidia-cublas-cu13", cpu_index=False)


def test_cuda_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAGELLM_TORCH=cuda takes the default build, whatever it brings; another value is refused."""
    monkeypatch.setenv("SAGELLM_TORCH", "cuda")
    assert decide(monkeypatch, "torch", "nvidia-cublas-cu13") == ["torch==2.13.0"]
    monkeypatch.setenv("SAGELLM_TORCH", "rocm")
    with pytest.raises(Failed, match="cpu or cuda"):
        decide(monkeypatch)


def test_a_gpu_takes_the_default_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an NVIDIA GPU answers, CUDA is what is wanted."""
    monkeypatch.setattr(setup, "has_nvidia_gpu", lambda: True)
    assert decide(monkeypatch, "torch", "nvidia-cublas-cu13") == ["torch==2.13.0"]


def test_every_cuda_package_is_recognised() -> None:
    """NVIDIA's and CUDA's packages count, others do not."""
    names = setup.cuda_packages(report("torch", "NVIDIA-cudnn-cu13", "cuda-toolkit", "numpy"))
    assert names == ["cuda-toolkit", "nvidia-cudnn-cu13"]


def test_nothing_is_done_when_nothing_has_changed(tmp_path: Path) -> None:
    """A stamp of the same inputs ends the set-up; other inputs, or more wanted, do not."""
    (tmp_path / "pyproject.toml").write_text("a")
    (tmp_path / "constraints.txt").write_text("b")
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    for_tests = setup.stamp_of(tmp_path, dev=True)
    (venv / setup.STAMP).write_text(json.dumps(for_tests))
    assert setup.is_current(venv, for_tests)
    assert setup.is_current(venv, setup.stamp_of(tmp_path, dev=False))
    (venv / setup.STAMP).write_text(json.dumps(setup.stamp_of(tmp_path, dev=False)))
    assert not setup.is_current(venv, for_tests)
    (tmp_path / "constraints.txt").write_text("c")
    assert not setup.is_current(venv, setup.stamp_of(tmp_path, dev=False))


def test_a_missing_venv_module_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command fits the package manager that is there."""
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(setup.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert setup.check_prerequisites() == [
        f"Python's venv module is missing. Install it: sudo apt-get install -y python{version}-venv"
    ]
    assert "g++" in (setup.compiler_hint() or "")


def test_a_failing_step_ends_with_its_last_lines() -> None:
    """What a command printed last, and the command itself, are in the error."""
    code = "import sys; [print(i) for i in range(100)]; sys.exit(3)"
    with pytest.raises(Failed, match=r"(?s)step failed:\n85\n.*\n99\nThe command was") as caught:
        Progress().run("step", [sys.executable, "-c", code])
    assert "84" not in str(caught.value).splitlines()


def test_pips_lines_say_what_it_is_doing() -> None:
    """The moving line names the package that pip is at."""
    assert detail_of("Collecting torch==2.13.0 (from x)") == "collecting torch==2.13.0 (from x)"
    assert detail_of("Installing collected packages: a, b, c") == "installing 3 packages"
    assert detail_of("something else") == ""


def test_all_pins_are_exact_and_none_is_of_a_local_build() -> None:
    """constraints.txt pins torch and everything else as `name==version`, without build tags."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][^+]*", line) for line in lines)
    assert setup.pinned_torch("\n".join(lines))
    assert not [line for line in lines if line.startswith(("pip==", "setuptools==", "sagellm=="))]
