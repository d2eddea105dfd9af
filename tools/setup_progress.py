"""What a person sees while something is set up: what is done, and for how long; on the standard library alone."""

from __future__ import annotations  # so that an old Python can read this file

import os
import re
import subprocess
import sys
import threading
import time

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
KEPT_LINES = 15
_STEP = re.compile(r"^\s*(Collecting|Downloading|Building|Installing|Preparing|Using cached)\b(.*)")


class Failed(Exception):
    """The set-up cannot go on; the message says what to do."""


class Progress:
    """Runs commands and shows what they are at: one moving line in a terminal, a line per step elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._detail = ""

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        print(f"sagellm set-up: {sentence}", flush=True)

    def fail(self, sentence: str) -> None:
        """Print an error in red."""
        red, plain = ("\x1b[31m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
        sys.stderr.write(f"{red}sagellm set-up: {sentence}{plain}\n")

    def run(self, what: str, command: list[str]) -> None:
        """Run a command to its end; raises Failed with its last lines if it fails."""
        began, done = time.monotonic(), threading.Event()
        self._detail = ""
        if not self._is_terminal:
            self.say(what)
        ticker = threading.Thread(target=self._tick, args=(what, began, done))
        ticker.start()
        try:
            code, lines = self._follow(command)
        finally:
            done.set()
            ticker.join()
        if code != 0:
            tail = "\n".join(lines[-KEPT_LINES:])
            raise Failed(f"{what} failed:\n{tail}\nThe command was: {' '.join(command)}")
        self._clear()
        self.say(f"{what}: done in {time.monotonic() - began:.0f} s")

    def _follow(self, command: list[str]) -> tuple[int, list[str]]:
        """Run the command; its lines say what it is at. Returns exit code and the last lines."""
        lines: list[str] = []
        environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        ) as process:
            for line in process.stdout or ():
                lines = [*lines[-200:], line.rstrip()]
                self._detail = detail_of(line) or self._detail
        return process.returncode, lines

    def _tick(self, what: str, began: float, done: threading.Event) -> None:
        """Show the state ten times a second in a terminal, every ten seconds elsewhere."""
        number = 0
        while not done.wait(0.1 if self._is_terminal else 10.0):
            elapsed = f"{time.monotonic() - began:.0f} s"
            if self._is_terminal:
                line = f"{SPINNER[number % len(SPINNER)]} {what}  {elapsed}  {self._detail}"
                sys.stdout.write("\r\x1b[K" + line[: _columns() - 1])
                sys.stdout.flush()
            else:
                self.say(f"{what}: {elapsed}, {self._detail}")
            number += 1

    def _clear(self) -> None:
        if self._is_terminal:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()


def detail_of(line: str) -> str:
    """Return what a line of pip's output says it is doing, empty if it says nothing of the kind."""
    found = _STEP.match(line)
    if found is None:
        return ""
    verb, rest = found.group(1), found.group(2).strip()
    if verb == "Installing" and rest.startswith("collected packages:"):
        return f"installing {rest.count(',') + 1} packages"
    return f"{verb.lower()} {rest.split('/')[-1][:80]}"


def _columns() -> int:
    try:
        return os.get_terminal_size().columns
    except OSError:
        return 80
