"""`sagellm chat`: talk to a model through a running gateway."""

from typing import Annotated

import typer

from sagellm.cli.options import AskedModel, MaxTokens, Temperature, Url


def chat(
    url: Url = None,
    model: AskedModel = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="System prompt.", metavar="TEXT")] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
) -> None:
    """Chat with a model that is being served.

    It remembers the conversation: /reset begins anew, /quit or Ctrl-D ends,
    Ctrl-C stops an answer.

    [bold]Examples[/bold]

      sagellm chat

      sagellm chat -s "Answer in one sentence."

      sagellm chat --url http://10.0.0.5:8000 -m my-model
    """
    from sagellm.cli.conversation import Conversation, converse
    from sagellm.cli.served import chosen_model
    from sagellm.client.sync import HttpClient

    with HttpClient(url) as client:
        name = chosen_model(client, model)
        with_options = {"model": name, "max_tokens": max_tokens, "temperature": temperature}

        def answer(conversation: Conversation) -> None:
            with client.stream(messages=conversation.messages, **with_options) as stream:  # type: ignore[arg-type]
                # the options are built above, by name
                conversation.show(chunk.text for chunk in stream)

        converse(name, system, answer)
