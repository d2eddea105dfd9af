"""Choosing the port of the gateway."""

import socket

from sagellm.launcher.config import DEFAULT_PORT
from sagellm_common.errors import Unavailable

TRIED_PORTS = 100


def choose_port(host: str, wanted: int | None) -> int:
    """Return `wanted`, or 8000 or the next free port; raises Unavailable if a wanted port is in use."""
    if wanted is not None:
        if not is_free(host, wanted):
            raise Unavailable(f"port {wanted} is in use: stop what listens there, or give another --port")
        return wanted
    for port in range(DEFAULT_PORT, DEFAULT_PORT + TRIED_PORTS):
        if is_free(host, port):
            return port
    raise Unavailable(f"no port from {DEFAULT_PORT} to {DEFAULT_PORT + TRIED_PORTS - 1} is free: give one with --port")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there; raises Unavailable if this machine does not have the address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise Unavailable(f"{host} is no address of this machine: give another --host") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError:
            return False
    return True
