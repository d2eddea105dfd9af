"""Whether services answer: `$SRV.PING` on the bus, `/health/ready` at the gateway, a socket for the rest."""

import asyncio
import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from sagellm_common.bus import Bus
from sagellm_common.errors import Unavailable
from sagellm_common.settings import BusSettings

PING_WINDOW_S = 0.25
CONNECT_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Pong:
    """One service instance that answered: `service` is gateway, scheduler, planner, registry or engine."""

    service: str
    instance: str
    version: str
    metadata: dict[str, str]


async def ping_services(bus: Bus, window_s: float = PING_WINDOW_S) -> list[Pong]:
    """Return every sageLLM service that answers within `window_s`, by kind and instance."""
    answers: list[bytes] = []

    async def receive(msg: object) -> None:
        answers.append(getattr(msg, "data", b""))

    inbox = bus.new_inbox()
    subscription = await bus.client.subscribe(inbox, cb=receive)
    try:
        await bus.client.publish("$SRV.PING", b"", reply=inbox)
        await asyncio.sleep(window_s)
    finally:
        await subscription.unsubscribe()
    pongs = [pong for data in answers if (pong := _pong(data)) is not None]
    return sorted(pongs, key=lambda pong: (pong.service, pong.instance))


def _pong(data: bytes) -> Pong | None:
    try:
        body = json.loads(data)
        kind, _, service = str(body["name"]).partition("-")
        metadata = {str(key): str(value) for key, value in (body.get("metadata") or {}).items()}
        version, own_id = str(body.get("version", "")), str(body["id"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # somebody else's service on the same bus
    if kind != "sagellm" or not service:
        return None
    instance = metadata.get("instance") or metadata.get(f"{service}_id") or metadata.get("id") or own_id
    return Pong(service, instance, version, metadata)


async def connect(nats_url: str, deployment: str) -> Bus:
    """Connect to the bus of a stack; raises Unavailable quickly."""
    settings = BusSettings(nats_url=nats_url, deployment=deployment, connect_timeout_s=CONNECT_TIMEOUT_S)
    return await Bus.connect(settings, "sagellm-launcher")


async def accepts(url: str) -> bool:
    """Whether something listens at the host and port of `url`."""
    parts = urlsplit(url.split(",")[0])
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(parts.hostname, parts.port or 4222), 2.0)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def http_status(url: str, path: str) -> int | None:
    """Return the status of a GET, None if nobody answers. A plain request, so that no HTTP library need be loaded."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
                status = (await reader.readline()).split()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return int(status[1]) if len(status) > 1 and status[1].isdigit() else None


async def check_bus(url: str) -> None:
    """Raise Unavailable with what to do if no server listens at `url`."""
    if not await accepts(url):
        safe = BusSettings(nats_url=url).safe_url
        raise Unavailable(
            f"no NATS server answers at {safe}: start one there, correct SAGELLM_NATS_URL, "
            "or unset it, and sageLLM starts its own"
        )
