"""A client that goes away before its request has been placed."""

import asyncio

import httpx

from sagellm_common.bus import Bus
from sagellm_common.nats_server import free_port
from sagellm_common.settings import BusSettings
from support.gateway_peers import GATEWAY_ID, MODEL, GatewayPeers
from support.processes import Services
from support.wait import eventually


async def test_nothing_is_kept_of_a_client_that_left_while_no_scheduler_led(
    bus: Bus, bus_settings: BusSettings, services: Services, peers: GatewayPeers
) -> None:
    """Its request is cancelled, and a drain does not wait for anybody to read its stream."""
    port = free_port()
    gateway = services.start("gateway", bus_settings, gateway_id=GATEWAY_ID, port=port, drain_timeout_s=120)
    await gateway.up(bus)
    await eventually(lambda: bool(peers.heartbeats), what="a heartbeat")
    await peers.no_leader()
    body = {"model": MODEL, "prompt": "once", "max_tokens": 4}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        asked = asyncio.create_task(client.post("/v1/completions", json=body, timeout=60))
        await peers.event("accepted")
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    await peers.event("cancelled")
    gateway.terminate()
    assert await gateway.wait(20) == 0, gateway.log_text()
