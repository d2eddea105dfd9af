"""Run every check: format, lint, types, tests. Stops at the first that fails and says how to run it alone.

.venv/bin/python tools/check.py               all
.venv/bin/python tools/check.py --no-tests    without the tests
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
STATIC = (
    ("format", ["ruff", "format", "--check", "."]),
    ("lint", ["ruff", "check", "."]),
    ("types", ["mypy"]),
)
TESTS = ("tests", ["pytest"])


def run(name: str, command: list[str]) -> bool:
    """Run one check in the foreground; whether it passed."""
    print(f"\n== {name}: {' '.join(command)}", flush=True)
    began = time.monotonic()
    code = subprocess.run([str(BIN / command[0]), *command[1:]], cwd=ROOT).returncode
    print(f"== {name}: {'passed' if code == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


def main(arguments: list[str]) -> int:
    """Run the checks; returns the exit code."""
    checks = STATIC if "--no-tests" in arguments else (*STATIC, TESTS)
    for name, command in checks:
        if not run(name, command):
            print(f"\nRun it alone: .venv/bin/{' '.join(command)}", flush=True)
            return 1
    print("\nAll checks passed.", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
