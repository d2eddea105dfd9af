"""Which model to ask."""

from sagellm.client.sync import SyncClient
from sagellm_common.errors import NotFound, Unavailable


def chosen_model(client: SyncClient, wanted: str | None) -> str:
    """Return `wanted` if it is offered, the first offered one if nothing is wanted; raises NotFound or Unavailable."""
    offered = [model.id for model in client.models()]
    if not offered:
        raise Unavailable("no engine serves a model at the moment; see `sagellm status`")
    if wanted is None:
        return offered[0]
    if wanted not in offered:
        raise NotFound(f"{wanted} is not served here; offered are {', '.join(offered)}", param="model")
    return wanted
