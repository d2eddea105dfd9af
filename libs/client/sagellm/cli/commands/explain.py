"""`sagellm explain`: why a request went where it went."""

from typing import Annotated

import typer

from sagellm.cli.options import Json, Nats


def explain(
    request_id: Annotated[str, typer.Argument(help="The id that the answer carried.")],
    nats: Nats = None,
    as_json: Json = False,
) -> None:
    """Show why a request went where it went, and what came of it.

    Every answer carries its id, and `sagellm publish` prints it at the end.

    [bold]Examples[/bold]

      sagellm explain 9f2c54e0a1b34c7d8e6f5a4b3c2d1e0f

      sagellm explain 9f2c54e0a1b34c7d8e6f5a4b3c2d1e0f --json
    """
    from sagellm.cli.bus import with_bus
    from sagellm.cli.console import print_json
    from sagellm.cli.explanation import print_record
    from sagellm_common.bus import Bus
    from sagellm_common.contracts.decisions import DecisionRecord, ExplainRequest

    bare_id = request_id.rpartition("-")[2]

    async def ask(bus: Bus) -> DecisionRecord:
        return await bus.request(bus.settings.subjects.explain, ExplainRequest(request_id=bare_id), DecisionRecord)

    record = with_bus(nats, ask)
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        print_record(record)
