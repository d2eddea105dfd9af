"""One gateway process: bus, HTTP and NATS API on one event loop, from start to drained end."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn

from sagellm_common.bus import Bus
from sagellm_common.errors import Unavailable
from sagellm_gateway.edge.service import GatewayService
from sagellm_gateway.http.app import create_app
from sagellm_gateway.nats_api.endpoint import NatsApi
from sagellm_gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process has one place for them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; raises Unavailable with a sentence if the bus or the port cannot be had."""
    listener = _listen(settings.host, settings.port)
    try:
        bus = await Bus.connect(settings, f"gateway {settings.gateway_id}")
        try:
            await _serve(bus, settings, listener, stop)
        finally:
            await bus.close()
    finally:
        listener.close()


async def _serve(bus: Bus, settings: GatewaySettings, listener: socket.socket, stop: asyncio.Event) -> None:
    gateway = GatewayService(bus, settings)
    await gateway.start()
    api = NatsApi(bus, gateway, settings.max_open_requests)
    await api.start()
    config = uvicorn.Config(
        create_app(gateway), log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=5
    )
    server = _Server(config)
    http = asyncio.create_task(server.serve(sockets=[listener]))
    await gateway.announce()
    host, port = listener.getsockname()[:2]
    log.info("gateway_ready", gateway_id=settings.gateway_id, url=f"http://{host}:{port}")
    await asyncio.wait([asyncio.create_task(stop.wait()), http], return_when=asyncio.FIRST_COMPLETED)
    await api.drain()
    await gateway.drain()
    server.should_exit = True
    await http
    await api.stop()
    await gateway.stop()


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything else starts, so that a taken port ends the start with a sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen on {host}:{port}: {error.strerror or error}; set SAGELLM_HOST or SAGELLM_PORT to another"
        ) from error
    listener.setblocking(False)
    return listener
