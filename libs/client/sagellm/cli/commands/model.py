"""`sagellm model`: the models on this machine."""

from typing import Annotated

import typer

from sagellm.cli.options import Json

model = typer.Typer(
    help="List, show, download and delete the models on this machine.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

ModelId = Annotated[str, typer.Argument(help="Model id, such as Qwen/Qwen3-0.6B.", metavar="MODEL")]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit.", metavar="NAME")]


@model.command("list")
def list_models(as_json: Json = False) -> None:
    """List all models that are whole and usable.

    [bold]Examples[/bold]

      sagellm model list

      sagellm model list --json
    """
    from sagellm.cli.console import out, print_json
    from sagellm.cli.models import models_table
    from sagellm_registry.store import ModelStore

    models = ModelStore().list_models()
    if as_json:
        print_json([info.model_dump() for info in models])
    else:
        out().print(models_table(models))


@model.command()
def show(model_id: ModelId, revision: Revision = None, as_json: Json = False) -> None:
    """Show what is known of one model.

    [bold]Example[/bold]

      sagellm model show Qwen/Qwen3-0.6B
    """
    from sagellm.cli.console import print_json
    from sagellm.cli.models import print_model
    from sagellm_registry.store import ModelStore

    store = ModelStore()
    info, card = store.get_model(model_id, revision), store.get_card(model_id, revision)
    if as_json:
        print_json({"model": info.model_dump(), "card": card.model_dump()})
    else:
        print_model(info, card)


@model.command()
def download(model_id: ModelId, revision: Revision = None) -> None:
    """Download a model from the Hugging Face hub.

    An interrupted download goes on where it was.

    [bold]Examples[/bold]

      sagellm model download Qwen/Qwen3-0.6B

      HF_ENDPOINT=https://hub.example.com sagellm model download my/model
    """
    from sagellm.cli.models import download_with_progress
    from sagellm_registry.store import ModelStore

    download_with_progress(ModelStore(), model_id, revision)


@model.command()
def delete(
    model_id: ModelId,
    revision: Revision = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a model's files; of a local folder only its entry.

    [bold]Example[/bold]

      sagellm model delete Qwen/Qwen3-0.6B --yes
    """
    from sagellm.cli.console import out
    from sagellm.cli.models import size_text
    from sagellm_registry.store import ModelStore

    store = ModelStore()
    info = store.get_model(model_id, revision)
    if not yes:
        typer.confirm(f"Delete {info.model_id} ({info.revision}, {size_text(info.size)}) in {info.path}?", abort=True)
    store.delete_model(model_id, revision)
    out().print(f"{info.model_id} has been deleted.", markup=False)
