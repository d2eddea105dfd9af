"""`sagellm bench`: a small load against a gateway."""

from typing import Annotated

import typer

from sagellm.cli.options import AskedModel, Json, Url


def bench(
    url: Url = None,
    model: AskedModel = None,
    streams: Annotated[int, typer.Option("--streams", "-s", min=1, max=2000, help="Streams at a time.")] = 8,
    requests: Annotated[int, typer.Option("--requests", "-r", min=1, help="Requests in all.")] = 32,
    prompt_words: Annotated[int, typer.Option("--prompt-words", min=1, help="Words of each prompt.")] = 64,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of each answer.")] = 64,
    as_json: Json = False,
) -> None:
    """Measure tokens a second, TTFT and ITL under a small load.

    Every answer has exactly the asked length. The load comes from this one
    process, which becomes the limit itself beyond some hundred streams.

    [bold]Examples[/bold]

      sagellm bench

      sagellm bench --streams 32 --requests 128 --json
    """
    import asyncio

    from sagellm.cli.console import print_json
    from sagellm.cli.load import Load, print_report, run_load

    load = Load(streams=streams, requests=requests, prompt_words=prompt_words, max_tokens=max_tokens)
    report = asyncio.run(run_load(url, model, load, show_progress=not as_json))
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
    if report.failed:
        raise typer.Exit(1)
