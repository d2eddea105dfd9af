"""Bad input on NATS: each ends in one typed final reply, and the gateway goes on."""

from typing import Any

import msgpack
import pytest
from nats.aio.msg import Msg

from sagellm_common.bus import Bus
from support.gateway_peers import JSON_HEADER, MODEL, Caller, GatewayPeers, as_json
from support.processes import ServiceProcess

MSGPACK_BODIES = [b"", b"\xc1", b"\x81\xa1", b"\x93\x01\x02\x03", msgpack.packb("text"), b"\xff" * 100]
JSON_BODIES = [b"{", b"{]", b'{"model": ', b'{"prompt": "\xff\xfe"}', b"{}", b'{"prompt": 1}']
FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "no/such"}, "not_found", "model"),
    ({"prompt": ""}, "invalid_argument", "prompt"),
    ({"prompt": []}, "invalid_argument", "prompt"),
    ({"prompt": [1, 10**9]}, "invalid_argument", "prompt"),
    ({"prompt": [-1]}, "invalid_argument", "prompt"),
    ({"prompt": "word " * 300}, "invalid_argument", "prompt"),
    ({"prompt": "x" * 1_000_000}, "invalid_argument", "prompt"),
    ({"prompt": None, "messages": []}, "invalid_argument", "messages"),
    ({"messages": [{"role": "user", "content": "x"}]}, "invalid_argument", ""),
    ({"sampling": {"max_tokens": -1}}, "invalid_argument", "sampling.max_tokens"),
    ({"sampling": {"max_tokens": 10**12}}, "invalid_argument", "max_tokens"),
    ({"sampling": {"temperature": -0.1}}, "invalid_argument", "sampling.temperature"),
    ({"sampling": {"temperature": "hot"}}, "invalid_argument", "sampling.temperature"),
    ({"sampling": {"n": 10_000}}, "invalid_argument", "sampling.n"),
    ({"sampling": {"max_tokens": 2, "min_tokens": 3}}, "invalid_argument", "min_tokens"),
    ({"stop": ["x"] * 5000}, "invalid_argument", "stop"),
    ({"stop": [""]}, "invalid_argument", "stop"),
    ({"slo": {"deadline_ms": -5}}, "invalid_argument", "slo.deadline_ms"),
]


async def _still_serves(bus: Bus, peers: GatewayPeers) -> None:
    engine = peers.engines["e1"]
    caller = await Caller(bus).ask_for()
    await engine.send(await engine.dispatched(len(engine.dispatches) + 1), 0, peers.tokens(" fox"), finish="length")
    await caller.final()
    assert caller.text == " fox"


async def test_malformed_bodies(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """Malformed msgpack and JSON, with and without header, end in an invalid argument."""
    bodies = [(body, None) for body in MSGPACK_BODIES + JSON_BODIES] + [(body, JSON_HEADER) for body in JSON_BODIES]
    for body, headers in bodies:
        final = await (await Caller(bus).ask(body, headers)).final()
        assert (final.error or {})["code"] == "invalid_argument", body
    assert not peers.submits
    await _still_serves(bus, peers)


async def test_wrong_and_absurd_fields(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """Wrong types, absurd values, unknown models and prompts over the context name the parameter at fault."""
    for fields, code, param in FIELDS:
        error = (await (await Caller(bus).ask_for(**fields)).final()).error or {}
        assert (error["code"], error.get("param", "")) == (code, param), (str(fields)[:80], error)
        assert error["message"]
    assert not peers.submits
    await _still_serves(bus, peers)


async def test_a_request_without_reply_subject_is_noted_and_dropped(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """Nobody could read the answer: the request is not run."""
    await bus.client.publish(bus.settings.subjects.generate, as_json())
    await gateway.logged("generate_without_reply")
    await _still_serves(bus, peers)
    assert len(peers.submits) == 1


async def test_a_gateway_publishes_for_nobody_where_the_caller_must_not(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """A reply subject inside a bucket, the server's API or the deployment is refused: nothing comes there."""
    subjects = bus.settings.subjects
    refused = [
        f"$KV.{subjects.bucket('engines')}.e9",
        "$JS.API.STREAM.NAMES",
        "$SRV.PING",
        subjects.gateway_notify("gw1"),
        subjects.engine_dispatch("e9"),
        subjects.submit("s1"),
    ]
    came: list[str] = []

    async def note(msg: Msg) -> None:
        came.append(msg.subject)

    watches = [await bus.client.subscribe(subject, cb=note) for subject in refused]
    for subject in refused:
        for body in (as_json(), b"{"):
            await bus.client.publish(subjects.generate, body, reply=subject)
        await gateway.logged(subject)
    assert "generate_refused" in gateway.log_text()
    await _still_serves(bus, peers)
    await bus.flush()
    assert not came
    assert len(peers.submits) == 1
    for watch in watches:
        await watch.unsubscribe()


async def test_garbage_on_inner_subjects(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """Malformed frames, assignments, notices and reports are dropped and the gateway goes on."""
    subjects = bus.settings.subjects
    for subject in (
        subjects.tokens("gw1"),
        subjects.gateway_assign("gw1"),
        subjects.gateway_notify("gw1"),
        subjects.gateway_open("gw1"),
        subjects.engine_metrics("e1"),
        subjects.cancel("nobody"),
    ):
        for body in (b"", b"\xc1", msgpack.packb([1, 2]), msgpack.packb({"a": 1}), msgpack.packb(["e", "i", 1, [7]])):
            await bus.client.publish(subject, body)
    await _still_serves(bus, peers)


@pytest.mark.parametrize("model", [None, MODEL])
async def test_the_only_model_need_not_be_named(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers, model: str | None
) -> None:
    """With one model served, a request that names none gets it."""
    await Caller(bus).ask_for(model=model)
    assert (await peers.engines["e1"].dispatched()).model == MODEL
