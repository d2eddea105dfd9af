"""`sagellm stop`: end what runs in the background."""

from typing import Annotated

import typer


def stop(
    all_stacks: Annotated[bool, typer.Option("--all", help="Stop foreground stacks of yours, too.")] = False,
) -> None:
    """Stop the background stack.

    Open requests may finish first, as far as they can within seconds.

    [bold]Examples[/bold]

      sagellm stop         the stack that `sagellm serve` started

      sagellm stop --all   and those that `sagellm up` runs elsewhere
    """
    from sagellm.cli.background import NAME, stop_stack
    from sagellm.cli.console import err, out
    from sagellm.launcher.record import running_stacks

    running = running_stacks()
    chosen = [record for record in running if all_stacks or record.name == NAME]
    for record in chosen:
        with err().status(f"Stopping {record.name} (process {record.pid}) ..."):
            stop_stack(record)
        out().print(f"{record.name} has stopped.")
    if not chosen:
        others = [str(record.pid) for record in running]
        hint = f" A foreground stack runs (process {', '.join(others)}): `sagellm stop --all`." if others else ""
        out().print(f"No background stack is running.{hint}")
