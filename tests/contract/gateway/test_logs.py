"""What a gateway writes into its log, at its most talkative."""

import json

from sagellm_common.bus import Bus
from sagellm_common.settings import BusSettings
from support.gateway_peers import GATEWAY_ID, JSON_HEADER, Caller, GatewayPeers, as_json
from support.processes import ServiceProcess, Services
from support.wait import eventually

SECRET = "xyzzy plugh"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


async def _answered(
    services: Services, settings: BusSettings, bus: Bus, peers: GatewayPeers, **options: object
) -> tuple[ServiceProcess, str]:
    """Have a gateway answer one good request and refuse bad ones, all with SECRET; return it and the good one's id."""
    gateway = services.start("gateway", settings, gateway_id=GATEWAY_ID, port=0, log_level="debug", **options)
    await gateway.up(bus)
    await eventually(lambda: bool(peers.heartbeats), what="a heartbeat")
    headers = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01", **JSON_HEADER}
    caller = await Caller(bus).ask(as_json(prompt=SECRET), headers)
    engine = peers.engines["e1"]
    await engine.send(await engine.dispatched(), 0, peers.tokens(" fox"), finish="length")
    request_id = (await caller.final()).request_id
    for bad in (
        as_json(prompt=SECRET)[:-1],
        as_json(prompt=SECRET, stop=[""]),
        as_json(prompt=None, messages=[{"role": SECRET, "content": SECRET}]),
        as_json(prompt=SECRET, sampling={"temperature": SECRET}),
        as_json(prompt=f"{SECRET} " * 300),
    ):
        assert (await (await Caller(bus).ask(bad, JSON_HEADER)).final()).error
    gateway.terminate()
    assert await gateway.wait() == 0, gateway.log_text()
    return gateway, request_id


async def test_no_prompt_is_logged_and_every_line_can_be_found_by_its_request(
    bus: Bus, bus_settings: BusSettings, services: Services, peers: GatewayPeers
) -> None:
    """Neither good nor bad requests leave their text in the log; a request's lines have its id and its trace."""
    gateway, request_id = await _answered(services, bus_settings, bus, peers)
    log = gateway.log_text()
    assert "xyzzy" not in log
    assert "plugh" not in log
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    accepted = next(line for line in lines if line["event"] == "request_accepted")
    assert (accepted["request_id"], accepted["trace_id"]) == (request_id, TRACE_ID)
    assert {line["instance"] for line in lines} == {GATEWAY_ID}


async def test_prompts_are_logged_when_that_is_asked_for(
    bus: Bus, bus_settings: BusSettings, services: Services, peers: GatewayPeers
) -> None:
    """With the setting on, an accepted request's prompt stands in its line."""
    gateway, _ = await _answered(services, bus_settings, bus, peers, log_prompts=True)
    assert SECRET in gateway.log_text()
