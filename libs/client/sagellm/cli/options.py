"""Options that several commands share, as annotated types."""

from typing import Annotated

import typer

MOST_ENGINES = 64

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Model id or folder. (default: the built-in model)", metavar="MODEL")
]
AskedModel = Annotated[
    str | None, typer.Option("--model", "-m", help="Model to ask. (default: the first one offered)", metavar="MODEL")
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        help="Gateway. (default: SAGELLM_URL, else the stack that runs here, else http://127.0.0.1:8000)",
        metavar="URL",
    ),
]
Nats = Annotated[
    str | None,
    typer.Option(
        "--nats",
        help="NATS server. (default: SAGELLM_NATS_URL, else the stack that runs here, else nats://127.0.0.1:4222)",
        metavar="URL",
    ),
]
Engines = Annotated[int, typer.Option("--engines", "-n", min=1, max=MOST_ENGINES, help="How many engines.")]
Scale = Annotated[
    str | None,
    typer.Option("--scale", help="As many engines as the load needs, such as 1..4.", metavar="LEAST..MOST"),
]
Backend = Annotated[
    str | None, typer.Option("--backend", help="cpu, cuda or mock. (default: what the machine has)", metavar="NAME")
]
Host = Annotated[str, typer.Option("--host", help="Address that the gateway listens on.")]
Port = Annotated[
    int | None,
    typer.Option("--port", "-p", min=1, max=65535, help="Port of the gateway. (default: 8000 or the next free one)"),
]
Queue = Annotated[str | None, typer.Option("--queue", help="Queue policy, such as fifo or priority.", metavar="NAME")]
Router = Annotated[
    str | None, typer.Option("--router", help="Router, such as load_balanced or locality.", metavar="NAME")
]
Roles = Annotated[
    str | None,
    typer.Option("--roles", help="Roles of the engines in turn: hybrid, prefill, decode.", metavar="ROLE,ROLE"),
]
PrefillDecode = Annotated[
    str | None,
    typer.Option("--pd", help="Prefill and decode on two engines: off, threshold or adaptive.", metavar="NAME"),
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", "-t", min=0.0, max=100.0, help="0 is greedy.")]


def engines_of(engines: int, scale: str | None) -> tuple[int, int | None]:
    """Return how many engines start, and to how many a planner goes; raises InvalidArgument for a wrong `--scale`."""
    from sagellm_common.errors import InvalidArgument

    if scale is None:
        return engines, None
    least, dots, most = scale.partition("..")
    numbers = [int(text) if text.isascii() and text.isdigit() else 0 for text in (least, most)]
    if not dots or not 1 <= numbers[0] <= numbers[1] <= MOST_ENGINES:
        raise InvalidArgument(
            f"--scale is {scale!r}: give the least and the most engines, from 1 to {MOST_ENGINES}, such as 1..4",
            param="scale",
        )
    if engines not in (1, numbers[0]):
        raise InvalidArgument("--engines and --scale say different things: leave out --engines", param="scale")
    return numbers[0], numbers[1]
