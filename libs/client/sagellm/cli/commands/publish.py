"""`sagellm publish`: a request on NATS by hand, and its replies."""

from typing import Annotated

import typer

from sagellm.cli.options import Nats


def publish(
    request: Annotated[str, typer.Argument(help="The request as JSON; - reads it from the input.")],
    nats: Nats = None,
    raw: Annotated[bool, typer.Option("--raw", help="Print each reply as the JSON that came.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds without any reply.")] = 60.0,
) -> None:
    """Publish a JSON request on NATS and print the answer as it comes.

    Any NATS client can do the same: publish on sagellm.default.v1.generate
    with a reply subject and the header Content-Type: application/json, and
    read the replies until one has "final": true.

    [bold]Examples[/bold]

      sagellm publish '{"messages": [{"role": "user", "content": "48 - 19?"}]}'

      sagellm publish '{"prompt": "Once", "sampling": {"max_tokens": 40}}'

      sagellm publish --raw - < request.json
    """
    import sys

    from sagellm.cli.bus import with_bus
    from sagellm.cli.publishing import check_request, publish_and_print

    text = sys.stdin.read() if request == "-" else request
    body = check_request(text)
    with_bus(nats, lambda bus: publish_and_print(bus, body, raw=raw, silence_s=timeout_s))
