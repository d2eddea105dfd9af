"""Where the command line writes: results to stdout, everything else to stderr."""

import json
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@cache
def out() -> "Console":
    """The console for results."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@cache
def err() -> "Console":
    """The console for progress and errors."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_error(sentence: str) -> None:
    """Write an error in red, as it is."""
    err().print(sentence, style="red", markup=False)


def print_json(value: Any) -> None:
    """Write a value as JSON for programs."""
    out().print(json.dumps(value, indent=2, ensure_ascii=False), markup=False)


def quiet_logs() -> None:
    """Send the libraries' logs to stderr, errors only, so that results stay clean."""
    from sagellm_common.telemetry import configure_logs

    configure_logs("cli", "cli", "error", "console")
