"""The core stays a core: no clock, no bus, no event loop; and nothing of the scheduler imports torch."""

import ast
import subprocess
import sys
from pathlib import Path

import sagellm_scheduler

ROOT = Path(sagellm_scheduler.__file__).parent
PURE = [*ROOT.glob("core/*.py"), *ROOT.glob("queueing/*.py"), *ROOT.glob("routing/*.py"), ROOT / "leadership/lease.py"]
FORBIDDEN = {"asyncio", "nats", "time", "datetime", "threading", "structlog", "opentelemetry"}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_the_core_imports_neither_clock_nor_bus_nor_event_loop() -> None:
    """Decisions depend on events and the given time alone."""
    assert len(PURE) > 20
    for path in PURE:
        names = imported(path)
        assert not {name.split(".")[0] for name in names} & FORBIDDEN, path
        assert not any(name.startswith("sagellm_common.bus") for name in names), path


def test_the_scheduler_never_imports_torch_or_transformers() -> None:
    """A scheduler process stays small."""
    code = (
        "import sys, sagellm_scheduler.__main__;"
        "print(sorted({'torch', 'transformers', 'fastapi'} & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
