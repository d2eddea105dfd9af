"""One gateway process: bus, HTTP and NATS API on one event loop, from start to drained end."""

import asyncio
import gc
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
# Connections for health, metrics and lists of models, beside those of generation.
SPARE_CONNECTIONS = 64
# Objects made and not freed before the youngest generation is collected.
GC_THRESHOLD = 50_000


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
    """Serve, drain, stop; whatever ends it, the bus is let go of and no thread is left."""
    gateway = GatewayService(bus, settings)
    api = NatsApi(bus, gateway, settings.max_open_requests)
    try:
        await gateway.start()
        await api.start()
        await _serve_http(gateway, api, listener, stop)
    finally:
        await api.stop()
        await gateway.stop()


async def _serve_http(gateway: GatewayService, api: NatsApi, listener: socket.socket, stop: asyncio.Event) -> None:
    """Serve until `stop` is set or HTTP ends, then let what is open finish; raises what HTTP ended with."""
    server = _Server(_http_config(gateway))
    http = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await gateway.announce()
        host, port = listener.getsockname()[:2]
        log.info("gateway_ready", gateway_id=gateway.settings.gateway_id, url=f"http://{host}:{port}")
        _spare_collections()
        await asyncio.wait([stopping, http], return_when=asyncio.FIRST_COMPLETED)
        await api.drain()
        await gateway.drain()
    finally:
        stopping.cancel()
        server.should_exit = True
        await http


def _http_config(gateway: GatewayService) -> uvicorn.Config:
    """No header of a client says where it is from, and connections have an end too.

    Twice as many as open requests, so that those refuse first, with a typed error.
    """
    return uvicorn.Config(
        create_app(gateway),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=2 * gateway.settings.max_open_requests + SPARE_CONNECTIONS,
        timeout_graceful_shutdown=5,
    )


def _spare_collections() -> None:
    """Keep the garbage collector away from the hot path.

    Modules, routes and tokenizers live as long as the process: frozen, no collection walks them again. What requests
    leave behind is mostly freed by reference counts, so that far fewer collections find the same few cycles; with
    CPython's threshold of 700 objects they would stop every stream several times a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


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
