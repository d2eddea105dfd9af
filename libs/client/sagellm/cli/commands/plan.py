"""`sagellm plan`: how many engines are wanted, and why."""

from typing import Annotated

import typer

from sagellm.cli.options import Json, Nats


def plan(
    model: Annotated[str | None, typer.Argument(help="Model to show. (default: all)")] = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Show how many engines are wanted for the load, and why.

    A planner makes the plans: `sagellm up --scale 1..4` starts one and
    follows it, `python -m sagellm_scheduler.planner` only advises.

    [bold]Examples[/bold]

      sagellm plan                  every model

      sagellm plan sage-tiny        one of them

      sagellm plan sage-tiny --json
    """
    from sagellm.cli.bus import with_bus
    from sagellm.cli.console import print_json
    from sagellm.cli.planning import find_plans, print_plans

    found = with_bus(nats, lambda bus: find_plans(bus, model))
    if as_json:
        print_json([plan.model_dump(mode="json") for plan in found.plans])
    else:
        print_plans(found)
