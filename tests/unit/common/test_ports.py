"""Ports for servers of ours: free, and not of those that outgoing connections take."""

import socket

import pytest

from sagellm_common import nats_server
from sagellm_common.errors import Unavailable
from sagellm_common.nats_server import LISTENING_PORTS, free_port


def test_a_port_can_be_listened_on() -> None:
    """What is returned lies in the range and can be bound."""
    port = free_port()
    assert port in LISTENING_PORTS
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two ports, one in use, it is always the other; with none free the error says where it looked."""
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        used, other = int(taken.getsockname()[1]), free_port()
        monkeypatch.setattr(nats_server, "LISTENING_PORTS", range(used, 2 * other - used, other - used))
        assert {free_port() for _ in range(20)} == {other}
        monkeypatch.setattr(nats_server, "LISTENING_PORTS", range(used, used + 1))
        with pytest.raises(Unavailable, match=f"no free port found from {used} to {used}"):
            free_port()


def test_outgoing_connections_do_not_take_it() -> None:
    """The system gives outgoing connections ports from another range."""
    with socket.socket() as outgoing:
        outgoing.bind(("127.0.0.1", 0))
        assert outgoing.getsockname()[1] not in LISTENING_PORTS
