"""Run a command in a real terminal (tmux) and write what it shows as an SVG.

python -m tools.screenshot docs/images/run.svg "make run" --until "Ctrl-C"
"""

import argparse
import io
import re
import subprocess
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

SESSION = "sagellm-screenshot"


def _tmux(*arguments: str) -> str:
    return subprocess.run(["tmux", *arguments], capture_output=True, text=True, check=True).stdout


def record(command: str, until: str, columns: int, rows: int, timeout_s: float) -> str:
    """Run `command` until the pattern `until` is on the screen, return the screen in colour, press Ctrl-C."""
    _tmux("new-session", "-d", "-s", SESSION, "-x", str(columns), "-y", str(rows), "PS1='$ ' bash --norc")
    try:
        _tmux("send-keys", "-t", SESSION, "clear; " + command, "Enter")
        deadline = time.monotonic() + timeout_s
        while not re.search(until, _tmux("capture-pane", "-p", "-t", SESSION)):
            if time.monotonic() > deadline:
                raise SystemExit(f"{until!r} was not shown within {timeout_s} s")
            time.sleep(0.2)
        time.sleep(1)
        return _tmux("capture-pane", "-e", "-p", "-t", SESSION)
    finally:
        subprocess.run(["tmux", "send-keys", "-t", SESSION, "C-c"], check=False)
        time.sleep(4)
        subprocess.run(["tmux", "kill-session", "-t", SESSION], check=False)


def main() -> None:
    """Parse the command line, record, write the SVG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("command")
    parser.add_argument("--until", required=True)
    parser.add_argument("--columns", type=int, default=110)
    parser.add_argument("--rows", type=int, default=44)
    parser.add_argument("--timeout", type=float, default=120)
    args = parser.parse_args()
    screen = record(args.command, args.until, args.columns, args.rows, args.timeout).rstrip()
    console = Console(record=True, width=args.columns, file=io.StringIO())
    console.print(Text.from_ansi(screen))
    args.target.parent.mkdir(parents=True, exist_ok=True)
    args.target.write_text(console.export_svg(title=args.command))
    print(f"wrote {args.target}")


if __name__ == "__main__":
    main()
