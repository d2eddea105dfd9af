"""The commands by name; only the one that is called is imported, all of them for `--help`."""

from collections.abc import Sequence
from importlib import import_module

import typer

PANELS = {
    "Start and stop": ("up", "serve", "stop", "status", "logs"),
    "Ask": ("run", "chat", "publish", "bench"),
    "Manage": ("model", "explain", "policy"),
    "Plan": ("plan", "simulate"),
}

HELP = """LLM inference as event-driven services on a NATS bus.

[bold]sagellm up[/bold] starts everything and answers on port 8000 in OpenAI's API, with a small model built in.

Every command has examples: [bold]sagellm COMMAND --help[/bold]. SAGELLM_DEBUG=1 shows tracebacks.
"""


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """Return the command line for these arguments."""
    app = typer.Typer(
        name="sagellm",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_common)
    called = arguments[0] if arguments else ""
    known = {name: panel for panel, names in PANELS.items() for name in names}
    for name in [called] if called in known else known:
        _add(app, name, known[name])
    return app


def _common(version: bool = typer.Option(False, "--version", "-V", help="Show the version and exit.")) -> None:
    # The option is shown here and answered in `main`, before anything heavy is imported.
    if version:
        from sagellm_common.version import __version__

        typer.echo(f"sagellm {__version__}")
        raise typer.Exit


def _add(app: typer.Typer, name: str, panel: str) -> None:
    command = getattr(import_module(f"sagellm.cli.commands.{name}"), name)
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name, rich_help_panel=panel)
    else:
        app.command(name, rich_help_panel=panel)(command)
