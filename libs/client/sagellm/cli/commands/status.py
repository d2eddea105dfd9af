"""`sagellm status`: what runs here, and what answers on the bus."""

from typing import TYPE_CHECKING, Any

import typer

from sagellm.cli.options import Json, Nats

if TYPE_CHECKING:
    from sagellm.launcher.readiness import Pong
    from sagellm.launcher.record import StackRecord


def status(nats: Nats = None, as_json: Json = False) -> None:
    """Show what runs here, and which services answer on the bus.

    The exit code is 1 if none answers.

    [bold]Examples[/bold]

      sagellm status

      sagellm status --nats nats://10.0.0.5:4222 --json
    """
    import os

    from sagellm.cli.console import out, print_json
    from sagellm.launcher.record import running_stacks

    records = running_stacks()
    urls = dict.fromkeys([nats] if nats else [r.nats_url for r in records])
    if not urls and (url := os.environ.get("SAGELLM_NATS_URL")):
        urls = {url: None}
    answers = {url: _ping(url) for url in urls}
    if as_json:
        print_json(_as_dict(records, answers))
    elif not answers:
        out().print("Nothing runs here. Start with `sagellm up` or `sagellm serve`.")
    else:
        _show(records, answers)
    if not any(answers.values()):
        raise typer.Exit(1)


def _ping(url: str) -> "list[Pong]":
    from sagellm.cli.bus import with_bus
    from sagellm.launcher.readiness import ping_services

    return with_bus(url, ping_services)


def _as_dict(records: "list[StackRecord]", answers: "dict[str, list[Pong]]") -> dict[str, Any]:
    from dataclasses import asdict

    services = [{"nats_url": url, **asdict(pong)} for url, pongs in answers.items() for pong in pongs]
    return {"stacks": [asdict(record) for record in records], "services": services}


def _show(records: "list[StackRecord]", answers: "dict[str, list[Pong]]") -> None:
    import time

    from rich.table import Table

    from sagellm.cli.console import out

    for url, pongs in answers.items():
        for record in (record for record in records if record.nats_url == url):
            minutes = (time.time() - record.started_at) / 60
            out().print(f"[bold]{record.name}[/bold]  process {record.pid}, up for {minutes:.0f} min")
            out().print(f"  HTTP  {record.http_url}/v1")
        out().print(f"  NATS  {url}")
        table = Table("service", "instance", "version", "details", box=None, header_style="bold", pad_edge=True)
        for pong in pongs:
            ids = ("id", f"{pong.service}_id")
            details = ", ".join(f"{key} {value}" for key, value in pong.metadata.items() if value and key not in ids)
            table.add_row(pong.service, pong.instance, pong.version, details)
        out().print(table if pongs else "  no service answers")
