"""`sagellm logs`: what the services of a stack have written."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path


def logs(
    service: Annotated[str | None, typer.Argument(help="One service, such as gateway. (default: all)")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as new lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines from the end of each log.")] = 20,
    raw: Annotated[bool, typer.Option("--raw", help="Print the lines as they are, without names.")] = False,
) -> None:
    """Print the logs of the newest stack.

    [bold]Examples[/bold]

      sagellm logs                      the last lines of every service

      sagellm logs gateway -f           follow one service

      sagellm logs engine-1 --raw       the lines as they were written
    """
    from sagellm.cli.tail import Tail

    tails = [Tail(path, "" if raw else path.stem, lines) for path in _paths(service)]
    for tail in tails:
        tail.print_new()
    while follow:
        import time

        time.sleep(0.2)
        for tail in tails:
            tail.print_new()


def _paths(service: str | None) -> "list[Path]":
    from sagellm.launcher.folders import run_dir, runs_dir
    from sagellm.launcher.record import newest_running
    from sagellm_common.errors import NotFound

    record = newest_running()
    folders = (
        [run_dir(record.name)] if record else sorted(runs_dir().glob("*/"), key=lambda path: -path.stat().st_mtime)
    )
    found = sorted((folders[0] / "logs").glob("*.log")) if folders else []
    if not found:
        raise NotFound("there are no logs yet: start a stack with `sagellm up` or `sagellm serve`")
    chosen = [path for path in found if service is None or path.stem == service]
    if not chosen:
        names = ", ".join(path.stem for path in found)
        raise NotFound(f"no service {service!r} has a log; there are {names}")
    return chosen
