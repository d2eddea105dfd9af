"""The end of a gateway as HTTP clients see it."""

import asyncio
import json

import httpx

from sagellm_common.bus import Bus
from sagellm_common.nats_server import free_port
from sagellm_common.settings import BusSettings
from support.gateway_peers import GATEWAY_ID, MODEL, GatewayPeers
from support.processes import Services
from support.wait import eventually

BODY = {"model": MODEL, "prompt": "once", "max_tokens": 8}


async def _read(client: httpx.AsyncClient, lines: list[str]) -> None:
    async with client.stream("POST", "/v1/completions", json={**BODY, "stream": True}) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line:
                lines.append(line.removeprefix("data: "))


async def test_sigterm_ends_http_in_order(
    bus: Bus, bus_settings: BusSettings, services: Services, peers: GatewayPeers
) -> None:
    """The open stream goes on to its end; a new request and readiness are 503 meanwhile; the process ends with 0."""
    port = free_port()
    gateway = services.start("gateway", bus_settings, gateway_id=GATEWAY_ID, port=port, drain_timeout_s=120)
    await gateway.up(bus)
    engine, tokens = peers.engines["e1"], peers.tokens(" the quick brown fox")
    lines: list[str] = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=False) as client:
        assert (await client.get("/health/ready")).status_code == 200
        reading = asyncio.create_task(_read(client, lines))
        dispatch = await engine.dispatched()
        await engine.send(dispatch, 0, tokens[:2])
        await eventually(lambda: bool(lines), what="the first event of the stream")
        gateway.terminate()
        await eventually(lambda: any(beat.draining for beat in peers.heartbeats), what="a draining heartbeat")
        ready, late = await client.get("/health/ready"), await client.post("/v1/completions", json=BODY)
        assert (ready.status_code, late.status_code) == (503, 503)
        assert late.json()["error"]["code"] == "unavailable"
        assert gateway.exit_code is None
        await engine.send(dispatch, 2, tokens[2:], finish="length")
        await reading
    assert lines[-1] == "[DONE]"
    assert "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1]) == " the quick brown fox"
    assert await gateway.wait() == 0, gateway.log_text()
