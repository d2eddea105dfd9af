"""Reading a growing log, and making its JSON lines readable."""

import json
from pathlib import Path

from sagellm.cli.console import out

COLOURS = {"warning": "yellow", "error": "red", "critical": "bold red", "debug": "dim"}
HIDDEN = frozenset({"event", "level", "timestamp", "service", "instance"})


class Tail:
    """One log file; `name` goes before each line, an empty one prints lines as they are."""

    def __init__(self, path: Path, name: str, lines: int) -> None:
        self._path, self._name = path, name
        self._rest = ""
        self._first_lines: int | None = lines
        self._position = 0

    def print_new(self) -> None:
        """Print what has been added since the last call; the first time the last lines."""
        if self._path.stat().st_size < self._position:  # a restart began the file anew
            self._position, self._rest = 0, ""
        with self._path.open(errors="replace") as file:
            file.seek(self._position)
            *whole, self._rest = (self._rest + file.read()).split("\n")
            self._position = file.tell()
        if self._first_lines is not None:
            whole = whole[len(whole) - min(self._first_lines, len(whole)) :]
            self._first_lines = None
        for line in whole:
            self._print(line)

    def _print(self, line: str) -> None:
        if not self._name:
            out().print(line, markup=False)
            return
        level, text = readable(line)
        out().print(f"{self._name:<10} {text}", style=COLOURS.get(level, ""), markup=False)


def readable(line: str) -> tuple[str, str]:
    """Return level and text of a log line; a line that is no JSON object stays as it is."""
    try:
        entry = json.loads(line)
    except ValueError:
        return "", line
    if not isinstance(entry, dict) or "event" not in entry:
        return "", line
    moment = str(entry.get("timestamp", ""))[11:23]
    level = str(entry.get("level", ""))
    details = " ".join(f"{key}={value}" for key, value in entry.items() if key not in HIDDEN)
    return level, f"{moment} {level:<7} {entry['event']} {details}".rstrip()
