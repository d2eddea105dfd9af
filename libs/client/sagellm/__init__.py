"""sageLLM: what users import, and the command line.

Importing this package costs nothing: each name is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from sagellm_common.version import __version__

if TYPE_CHECKING:
    from sagellm.client.http_async import AsyncHttpClient
    from sagellm.client.nats_async import AsyncNatsClient
    from sagellm.client.results import Chunk, Completion, Model
    from sagellm.client.sync import HttpClient, NatsClient
    from sagellm_common.errors import SageError

_HOMES = {
    "AsyncHttpClient": "sagellm.client.http_async",
    "AsyncNatsClient": "sagellm.client.nats_async",
    "HttpClient": "sagellm.client.sync",
    "NatsClient": "sagellm.client.sync",
    "Chunk": "sagellm.client.results",
    "Completion": "sagellm.client.results",
    "Model": "sagellm.client.results",
    "SageError": "sagellm_common.errors",
}

__all__ = [
    "AsyncHttpClient",
    "AsyncNatsClient",
    "Chunk",
    "Completion",
    "HttpClient",
    "Model",
    "NatsClient",
    "SageError",
    "__version__",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'sagellm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
