"""`sagellm up`: the whole stack in the foreground."""

from typing import Annotated

import typer

from sagellm.cli.options import (
    Backend,
    Engines,
    Host,
    Model,
    Port,
    PrefillDecode,
    Queue,
    Roles,
    Router,
    Scale,
    engines_of,
)


def up(
    model: Model = None,
    engines: Engines = 1,
    scale: Scale = None,
    backend: Backend = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    queue: Queue = None,
    router: Router = None,
    roles: Roles = None,
    pd: PrefillDecode = None,
    demo: Annotated[bool, typer.Option("--demo", help="Ask the model for something once it is up.")] = False,
) -> None:
    """Start everything in the foreground; Ctrl-C stops it.

    A NATS server starts too, on a free port, unless SAGELLM_NATS_URL names
    one. Services take their settings from the environment, such as
    SAGELLM_MAX_MODEL_LEN or SAGELLM_OTLP_ENDPOINT.

    [bold]Examples[/bold]

      sagellm up --demo                       ask the built-in model

      sagellm up -m Qwen/Qwen3-0.6B -p 9000   another model, another port

      sagellm up -n 4 --backend mock          four engines without weights

      sagellm up -n 2 --roles prefill,decode  prefill on one, decode on the other

      sagellm up --scale 1..4                 as many engines as the load needs: see `sagellm plan`
    """
    import asyncio
    import os

    from sagellm.cli.foreground import run_foreground
    from sagellm.launcher.config import StackConfig

    least, most = engines_of(engines, scale)
    config = StackConfig(
        model=model,
        engines=least,
        scale_to=most,
        backend=backend,
        host=host,
        port=port,
        queue=queue,
        router=router,
        roles=tuple(roles.split(",")) if roles else (),
        pd=pd,
        nats_url=os.environ.get("SAGELLM_NATS_URL") or None,
        deployment=os.environ.get("SAGELLM_DEPLOYMENT") or "default",
    )
    code = asyncio.run(run_foreground(config, demo=demo))
    if code:
        raise typer.Exit(code)
