"""A stack started by the command line, in a state directory of its own; whatever a test leaves is ended."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sagellm_common.nats_server import free_port

SAGELLM = Path(sys.executable).parent / "sagellm"
START_TIMEOUT_S = 100.0


class Terminal:
    """Runs `sagellm` commands for one test, with the mock backend and few threads."""

    def __init__(self, state: Path) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SAGELLM_")}
        self.env = {**kept, "SAGELLM_STATE_DIR": str(state), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        self.state = state
        self.started: list[Started] = []

    def run(self, *arguments: str, timeout_s: float = START_TIMEOUT_S) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        return subprocess.run(
            [str(SAGELLM), *arguments],
            capture_output=True,
            text=True,
            env=self.env,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def start(self, *arguments: str) -> "Started":
        """Start a command that stays."""
        self.started.append(Started([str(SAGELLM), *arguments], self.env))
        return self.started[-1]

    def start_python(self, *arguments: str) -> "Started":
        """Start this environment's Python, which stays."""
        self.started.append(Started([sys.executable, *arguments], self.env))
        return self.started[-1]

    def leftovers(self) -> list[psutil.Process]:
        """Every process that any command of this test has started and that still runs."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SAGELLM_STATE_DIR") == str(self.state):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    def wait_for_silence(self, timeout_s: float = 15.0) -> list[str]:
        """Wait until nothing runs; returns what still does."""
        deadline = time.monotonic() + timeout_s
        while (left := self.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [repr(process) for process in left]


class Started:
    """A command that runs, with what it has printed so far."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
        )
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.text += line

    def wait_for(self, pattern: str, timeout_s: float = START_TIMEOUT_S) -> "re.Match[str]":
        """Wait until the output has the pattern; fail with the output if it ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        while True:
            has_ended = self.process.poll() is not None
            if has_ended:
                self._reader.join(5)
            if (match := re.search(pattern, self.text)) is not None:
                return match
            assert not has_ended, f"ended before {pattern!r} came:\n{self.text}"
            assert time.monotonic() < deadline, f"{pattern!r} did not come:\n{self.text}"
            time.sleep(0.02)

    def end(self) -> None:
        """Collect the process and its output."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal whose processes are all gone at the end."""
    opened = Terminal(tmp_path / "state")
    yield opened
    for started in opened.started:
        started.end()
    for process in opened.leftovers():
        process.kill()


@pytest.fixture
def port() -> int:
    """A free port."""
    return free_port()
