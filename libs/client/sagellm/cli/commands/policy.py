"""`sagellm policy`: show or change how requests are ordered and placed, live."""

from sagellm.cli.options import Json, Nats, PrefillDecode, Queue, Router


def policy(
    queue: Queue = None,
    router: Router = None,
    pd: PrefillDecode = None,
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Show how requests are ordered and placed, or change it live.

    [bold]Examples[/bold]

      sagellm policy                                  what is in force

      sagellm policy --queue priority                 order by priority

      sagellm policy --queue fifo --router locality   change both

      sagellm policy --pd off                         prefill and decode on one engine, always
    """
    from sagellm.cli.bus import with_bus
    from sagellm.cli.console import out, print_json
    from sagellm_common.bus import Bus
    from sagellm_common.contracts.policy import PolicyChange, PolicyReply

    async def ask(bus: Bus) -> PolicyReply:
        change = PolicyChange(queue=queue, router=router, pd=pd)
        return await bus.request(bus.settings.subjects.policy, change, PolicyReply)

    reply = with_bus(nats, ask)
    if as_json:
        print_json(reply.model_dump())
        return
    for label, value, known in (
        ("queue", reply.policy.queue, reply.known_queues),
        ("router", reply.policy.router, reply.known_routers),
        ("pd", reply.policy.pd, reply.known_pd),
    ):
        others = ", ".join(name for name in known if name != value)
        out().print(f"{label:<7} [bold green]{value}[/bold green]  [dim](others: {others or 'none'})[/dim]")
