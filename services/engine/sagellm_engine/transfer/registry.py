"""Transports by name."""

from importlib import import_module
from typing import Any

from sagellm_common.errors import InvalidArgument
from sagellm_engine.transfer.transport import Transport

TRANSPORTS = {"nixl": "sagellm_engine.transfer.nixl_transport:NixlTransport"}


def make_transport(name: str) -> Transport:
    """Return a transport for a known name or for `package.module:Class`; raises InvalidArgument for any other."""
    module, _, attribute = TRANSPORTS.get(name, name).partition(":")
    try:
        made: Any = getattr(import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise InvalidArgument(f"the transport {name!r} cannot be loaded: {error}", param="kv_transfer") from error
    transport: Transport = made
    return transport
