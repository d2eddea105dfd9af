"""What a person sees while a stack starts and runs: a live table in a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sagellm.launcher.stack import Change

STYLES = {"ready": "green", "stopped": "dim", "died": "bold red", "restarting": "yellow", "stopping": "yellow"}
MARKS = {"ready": "✓", "stopped": "·", "died": "✗", "restarting": "↻", "stopping": "…"}


class StartView:
    """Shows each service until it is ready, with the time it took; later changes are printed as lines."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._began = time.monotonic()
        self._rows: dict[str, tuple[Change, float]] = {}
        self._live: Live | None = None
        self._spinner = Spinner("dots", style="cyan")
        self._settled = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(self, console=self._console, refresh_per_second=12, transient=False)
            self._live.start()
        else:
            self._console.print(self._title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._settled = True
        if self._live is not None:
            self._live.stop()

    def change(self, change: Change) -> None:
        """Take a change of one service."""
        after_s = time.monotonic() - self._began
        self._rows[change.name] = (change, after_s)
        if self._settled or (self._live is None and change.state != "starting"):
            self._line(change, after_s)

    def _line(self, change: Change, after_s: float) -> None:
        timing = "" if self._settled else f"{after_s:5.1f} s  "
        line = f"{timing}{change.name:<12} {change.state:<10} {change.detail}".rstrip()
        self._console.print(line, style=STYLES.get(change.state, ""), markup=False)

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.title, table.title_justify, table.title_style = self._title, "left", "bold"
        for name, (change, after_s) in self._rows.items():
            mark = self._spinner if change.state == "starting" else Text(MARKS.get(change.state, " "))
            took = time.monotonic() - self._began if change.state == "starting" and not self._settled else after_s
            style = STYLES.get(change.state, "")
            table.add_row(mark, name, change.state, f"{took:.1f} s", Text(change.detail, style="dim"), style=style)
        return table
