"""Micro services: `$SRV.PING/INFO/STATS` answer for every service, and cold endpoints are served through it."""

from collections.abc import Mapping

import nats.micro
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig

from sagellm_common.bus import tracing
from sagellm_common.bus.connection import Bus, OnRequest
from sagellm_common.bus.messages import Received, check_payload, content_headers, encode_error
from sagellm_common.codec import M, decode, encode
from sagellm_common.errors import SageError, as_sage_error
from sagellm_common.version import __version__


class MicroService:
    """One instance of a service, as nats.micro shows it."""

    def __init__(self, bus: Bus, service: Service) -> None:
        self._bus = bus
        self._service = service

    @classmethod
    async def start(cls, bus: Bus, name: str, description: str, metadata: Mapping[str, str]) -> "MicroService":
        """Announce the service `name` (as `sagellm-<name>`) on the bus."""
        config = ServiceConfig(
            name=f"sagellm-{name}", version=__version__, description=description, metadata=dict(metadata)
        )
        return cls(bus, await nats.micro.add_service(bus.client, config))

    async def add_endpoint(
        self, name: str, subject: str, request_type: type[M], handler: OnRequest[M], *, queue: str
    ) -> None:
        """Serve a cold endpoint; the handler runs as a task, so that one request does not hold up the next."""

        async def receive(request: Request) -> None:
            self._bus.spawn(_answer(request, request_type, handler, self._bus))

        await self._service.add_endpoint(EndpointConfig(name=name, subject=subject, handler=receive, queue_group=queue))

    async def stop(self) -> None:
        """Withdraw the service from the bus."""
        if self._bus.is_connected:
            await self._service.stop()


async def _answer(request: Request, request_type: type[M], handler: OnRequest[M], bus: Bus) -> None:
    received = Received(request.subject, "", request.headers or {})
    try:
        with tracing.continued(received.headers):
            answer = await handler(decode(request_type, request.data, received.content_type), received)
        data, headers = encode(answer, received.content_type), content_headers(received.content_type)
        check_payload(data, headers, bus.max_payload)
        await request.respond(data, headers or None)
    except Exception as error:
        known = as_sage_error(error)
        data, headers = encode_error(known, received.content_type)
        await request.respond_error(headers.pop("Nats-Service-Error-Code"), known.message, data, headers)
        if not isinstance(error, SageError):
            raise
