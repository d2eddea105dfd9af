"""`sagellm simulate`: play a trace through the real scheduler in virtual time."""

from pathlib import Path
from typing import Annotated

import typer

from sagellm.cli.options import Json


def simulate(
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="Azure's or BurstGPT's CSV, or Mooncake's JSON lines. (default: made-up chats)"),
    ] = None,
    engines: Annotated[
        str,
        typer.Option("--engines", "-n", help="COUNT*KIND[:ROLE], several with commas; KIND may be a JSON file."),
    ] = "4*h200-8b",
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", help="ROUTER, ROUTER/QUEUE or ROUTER/QUEUE/PD; several to compare.", metavar="NAME"),
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="Requests a second. (default: the trace's)")
    ] = None,
    first: Annotated[int, typer.Option("--first", min=1, help="So many requests of the trace.")] = 2000,
    ttft_ms: Annotated[float, typer.Option("--ttft-ms", min=0.1, help="SLO: time to the first token.")] = 1000.0,
    itl_ms: Annotated[float, typer.Option("--itl-ms", min=0.1, help="SLO: mean time from token to token.")] = 50.0,
    admission: Annotated[
        bool, typer.Option(help="Refuse who is expected to miss the SLO for the first token.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same run.")] = 0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a picture: PNG, SVG or PDF.")] = None,
    as_json: Json = False,
) -> None:
    """Play a trace through the real scheduler and gateways in virtual time, with engines by a time model.

    Nothing is started and no GPU is needed: an hour of traffic takes seconds. Each policy gets the same requests.

    [bold]Examples[/bold]

      sagellm simulate --rate 60

      sagellm simulate --trace conv.csv --engines 2*h200-8b,2*h100-8b --policy predictive/slo_aware --policy random

      sagellm simulate --rate 80 --admission --plot attainment.png
    """
    from sagellm.cli import simulation
    from sagellm.cli.console import print_json

    asked = simulation.Asked(
        trace=trace,
        engines=engines,
        policies=tuple(policy or ("predictive/slo_aware", "load_balanced", "round_robin")),
        rate=rate,
        first=first,
        ttft_ms=ttft_ms,
        itl_ms=itl_ms,
        admission=admission,
        seed=seed,
    )
    if plot is not None:
        simulation.check_plotting()
    runs = simulation.run(asked, quiet=as_json)
    if as_json:
        print_json(simulation.as_json(asked, runs))
    else:
        simulation.show(asked, runs)
    if plot is not None:
        simulation.draw(runs, plot)
