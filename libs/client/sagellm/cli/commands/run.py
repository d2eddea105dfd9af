"""`sagellm run`: a model in this process, without services."""

from typing import Annotated

import typer

from sagellm.cli.options import Backend, MaxTokens, Model, Temperature


def run(
    prompt: Annotated[str | None, typer.Argument(help="What to ask; without it, a conversation.")] = None,
    model: Model = None,
    backend: Backend = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="System prompt.", metavar="TEXT")] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed gives the same answer.")] = None,
) -> None:
    """Talk to a model inside this process, without services.

    [bold]Examples[/bold]

      sagellm run                               talk to the built-in model

      sagellm run "What is 17 + 25?" -t 0       one question, greedy

      sagellm run -m ./my-model --backend cpu   a local folder
    """
    from sagellm.cli.console import err, out
    from sagellm.cli.conversation import Conversation, converse
    from sagellm.cli.local import LocalModel

    with err().status("Loading ..."):
        local = LocalModel.load(model, backend)
    with local:
        sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}

        def answer(conversation: Conversation) -> None:
            conversation.show(local.stream(conversation.messages, **sampling))  # type: ignore[arg-type]
            # the options are built above, by name

        if prompt is None:
            converse(local.name, system, answer)
            return
        conversation = Conversation(system)
        conversation.ask(prompt)
        out()
        answer(conversation)
