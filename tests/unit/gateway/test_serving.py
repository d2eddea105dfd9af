"""The end of a gateway whose HTTP server fails."""

import asyncio
import socket
from typing import Any, cast

import pytest

from sagellm_common.bus import Bus
from sagellm_gateway import serving
from sagellm_gateway.settings import GatewaySettings
from support.wait import eventually

calls: list[str] = []


class _Part:
    """A part of the gateway that notes what is asked of it."""

    def __init__(self, *given: Any) -> None:
        self.settings = GatewaySettings(max_open_requests=10)

    def __getattr__(self, name: str) -> Any:
        async def note() -> None:
            calls.append(f"{type(self).__name__}.{name}")

        return note


class _Api(_Part):
    pass


class _Gateway(_Part):
    pass


async def _fail(self: Any, sockets: Any) -> None:
    raise RuntimeError("HTTP ended")


async def test_all_is_stopped_when_http_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fault comes out, and only after what was open has been drained and both sides have been stopped."""
    calls.clear()
    monkeypatch.setattr(serving, "GatewayService", _Gateway)
    monkeypatch.setattr(serving, "NatsApi", _Api)
    monkeypatch.setattr(serving, "create_app", lambda gateway: None)
    monkeypatch.setattr(serving, "_spare_collections", lambda: None)
    monkeypatch.setattr(serving._Server, "serve", _fail)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(RuntimeError, match="HTTP ended"):
        await serving._serve(cast(Bus, None), GatewaySettings(), listener, asyncio.Event())
    assert calls[-4:] == ["_Api.drain", "_Gateway.drain", "_Api.stop", "_Gateway.stop"]
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()}, what="the end of all tasks")


def test_connections_have_an_end_and_say_not_where_they_are_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """More connections than requests may be open, yet not any number; a client's word on its address is not taken."""
    monkeypatch.setattr(serving, "create_app", lambda gateway: None)
    config = serving._http_config(cast(Any, _Gateway()))
    assert config.limit_concurrency == 20 + serving.SPARE_CONNECTIONS
    assert not config.proxy_headers
