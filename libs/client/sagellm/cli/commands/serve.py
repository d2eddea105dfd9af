"""`sagellm serve`: the whole stack in the background."""

from sagellm.cli.options import Backend, Engines, Host, Model, Port, Queue, Router, Scale, engines_of


def serve(
    model: Model = None,
    engines: Engines = 1,
    scale: Scale = None,
    backend: Backend = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    queue: Queue = None,
    router: Router = None,
) -> None:
    """Start everything in the background and return once it is ready.

    One background stack runs per user; `sagellm up` may run beside it.

    [bold]Examples[/bold]

      sagellm serve                   start it

      sagellm serve --scale 1..4      start it with as many engines as the load needs

      sagellm status                  see what runs

      sagellm logs gateway --follow   watch one service

      sagellm stop                    stop it
    """
    import os

    from sagellm.cli.background import start_background
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
        nats_url=os.environ.get("SAGELLM_NATS_URL") or None,
        deployment=os.environ.get("SAGELLM_DEPLOYMENT") or "default",
    )
    start_background(config)
