"""The bus against a real nats-server."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats
import nats.errors
import pytest
from pydantic import SecretStr

from sagellm_common.bus import Bus, BusState, Limits, MicroService, Received
from sagellm_common.bus.messages import headers_size
from sagellm_common.codec import JSON
from sagellm_common.contracts.frames import TokenFrame, TokenItem
from sagellm_common.contracts.generate import CancelReply, CancelRequest
from sagellm_common.contracts.policy import Leader
from sagellm_common.errors import DeadlineExceeded, NotFound, PayloadTooLarge, Unauthenticated, Unavailable
from sagellm_common.nats_server import NatsServer, free_port
from sagellm_common.settings import BusSettings
from support.wait import eventually


async def _found(request: CancelRequest, received: Received) -> CancelReply:
    return CancelReply(found=request.request_id == "a")


async def test_a_request_is_answered_with_a_typed_reply(bus: Bus) -> None:
    """A served subject answers a typed request with a typed reply."""
    await bus.serve("t.cancel", CancelRequest, _found)
    assert (await bus.request("t.cancel", CancelRequest(request_id="a"), CancelReply)).found
    assert not (await bus.request("t.cancel", CancelRequest(request_id="b"), CancelReply)).found


async def test_a_typed_error_crosses_the_bus(bus: Bus) -> None:
    """An error raised by a handler is raised again, with its class and message, where the request was made."""

    async def refuse(request: CancelRequest, received: Received) -> CancelReply:
        raise NotFound("no request with that id", param="request_id")

    await bus.serve("t.refuse", CancelRequest, refuse)
    with pytest.raises(NotFound, match="no request with that id") as caught:
        await bus.request("t.refuse", CancelRequest(request_id="a"), CancelReply)
    assert caught.value.param == "request_id"


async def test_json_is_accepted_and_answered_in_json(bus: Bus) -> None:
    """A person with a bare NATS client and a Content-Type header gets JSON back."""
    await bus.serve("t.json", CancelRequest, _found)
    msg = await bus.client.request("t.json", b'{"request_id": "a", "unknown": 1}', headers={"content-type": JSON})
    assert json.loads(msg.data) == {"found": True}


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x81\xa1", b"[1, 2", b"\xff\xfe", b"\x93\x01\x02\x03"])
async def test_a_malformed_body_is_an_invalid_argument_and_the_service_goes_on(bus: Bus, body: bytes) -> None:
    """Malformed msgpack and JSON end in a typed error reply; the next request is served."""
    await bus.serve("t.bad", CancelRequest, _found)
    for headers in (None, {"Content-Type": JSON}):
        msg = await bus.client.request("t.bad", body, headers=headers)
        assert msg.headers is not None
        assert msg.headers["Nats-Service-Error-Code"] == "400"
    assert (await bus.request("t.bad", CancelRequest(request_id="a"), CancelReply)).found


async def test_nobody_listening_is_unavailable_at_once(bus: Bus) -> None:
    """Without a listener a request fails at once, not after its timeout."""
    async with asyncio.timeout(1):
        with pytest.raises(Unavailable):
            await bus.request("t.nobody", CancelRequest(request_id="a"), CancelReply, timeout_s=30)


async def test_no_reply_in_time_is_deadline_exceeded(bus: Bus) -> None:
    """A listener that never answers makes the request fail with the typed error."""
    await bus.subscribe("t.silent", CancelRequest, lambda message, received: None)
    with pytest.raises(DeadlineExceeded):
        await bus.request("t.silent", CancelRequest(request_id="a"), CancelReply, timeout_s=0.05)


async def test_payloads_are_checked_with_their_headers_before_the_wire(bus: Bus) -> None:
    """A message that fits only without its headers is refused, and the connection stays up."""
    headers = {"X": "y" * 1000}
    room = bus.max_payload - headers_size(headers)
    empty = TokenFrame("e", "", 1, [TokenItem("r", 0, 0, 0, [], error={"m": "x" * (room - 200)})])
    await bus.publish("t.big", empty, headers=headers)
    full = TokenFrame("e", "", 1, [TokenItem("r", 0, 0, 0, [], error={"m": "x" * (room - 10)})])
    with pytest.raises(PayloadTooLarge):
        await bus.publish("t.big", full, headers=headers)
    await bus.flush()
    assert bus.state is BusState.CONNECTED
    assert bus.reconnects == 0


async def test_an_answer_that_is_too_large_is_said(bus: Bus) -> None:
    """A cold endpoint whose answer does not fit replies with the typed error, and the connection stays up."""
    frame = len(CancelRequest(request_id="").model_dump_json())

    async def answer(request: CancelRequest, received: Received) -> CancelRequest:
        return CancelRequest(request_id="x" * (bus.max_payload - frame))

    service = await MicroService.start(bus, "probe", "a probe", {})
    await service.add_endpoint("large", "t.large", CancelRequest, answer, queue="q")
    with pytest.raises(PayloadTooLarge):
        await bus.request("t.large", CancelRequest(request_id="a"), CancelRequest, content_type=JSON)
    assert bus.reconnects == 0
    await service.stop()


async def test_drops_are_counted(bus: Bus, bus_settings: BusSettings) -> None:
    """When a subscription's limits are reached, what is lost is counted per subject."""
    seen: list[str] = []
    await bus.subscribe("t.flood", CancelRequest, lambda m, r: seen.append(m.request_id), limits=Limits(messages=10))
    await bus.flush()
    for index in range(2000):
        await bus.publish("t.flood", CancelRequest(request_id=str(index)))
    await bus.flush()
    await eventually(lambda: len(seen) + bus.drops["t.flood"] == 2000, what="every message seen or counted")
    assert bus.drops["t.flood"] > 0


async def test_a_handler_that_raises_does_not_end_the_subscription(bus: Bus) -> None:
    """After an exception in a handler the next message is delivered."""
    seen: list[str] = []

    def handler(message: CancelRequest, received: Received) -> None:
        if message.request_id == "bad":
            raise RuntimeError("handler fault")
        seen.append(message.request_id)

    await bus.subscribe("t.raise", CancelRequest, handler)
    for request_id in ("bad", "good"):
        await bus.publish("t.raise", CancelRequest(request_id=request_id))
    await eventually(lambda: seen == ["good"])


async def test_no_server_at_start_is_one_sentence(tmp_path: Path) -> None:
    """With NATS absent, connecting fails within the timeout with a sentence that names address and remedy."""
    settings = BusSettings(nats_url=f"nats://user:secret@127.0.0.1:{free_port()}", connect_timeout_s=0.5)
    with pytest.raises(Unavailable, match="SAGELLM_NATS_URL") as caught:
        await Bus.connect(settings, "test")
    assert "secret" not in caught.value.message


async def test_a_wrong_password_is_one_sentence(tmp_path: Path) -> None:
    """A server that refuses the user ends the attempt within the timeout with a sentence about the user."""
    server = NatsServer(tmp_path / "nats", args=["--user", "a", "--pass", "right"])
    server.start()
    settings = BusSettings(nats_url=server.url, nats_user="a", nats_password=SecretStr("wrong"), connect_timeout_s=3.0)
    try:
        with pytest.raises(Unauthenticated, match="refuses user 'a': set SAGELLM_NATS_USER") as caught:
            await Bus.connect(settings, "test")
    finally:
        server.stop()
    assert "wrong" not in caught.value.message


async def test_a_reset_after_the_refusal_does_not_hide_it() -> None:
    """The sentence about the user comes also if closing the refused connection is the last thing that fails."""

    async def connect(*args: object, error_cb: Callable[[Exception], Awaitable[None]], **options: object) -> None:
        await error_cb(nats.errors.Error("nats: 'Authorization Violation'"))
        await error_cb(ConnectionResetError("connection reset by peer"))
        await asyncio.Event().wait()

    bus = Bus(BusSettings(nats_user="a", connect_timeout_s=0.05), "test")
    bus.client.connect = connect  # type: ignore[method-assign, assignment]
    with pytest.raises(Unauthenticated, match="refuses user 'a'"):
        await bus._open()


async def test_a_cancellation_that_the_library_loses_does_not_hold_up_the_start() -> None:
    """Connecting ends with its timeout even if the first cancellation is swallowed below."""
    lost: list[str] = []

    async def connect(*args: object, **options: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost.append("cancelled")
        await asyncio.Event().wait()

    bus = Bus(BusSettings(connect_timeout_s=0.05), "test")
    bus.client.connect = connect  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await asyncio.wait_for(bus._open(), 5)
    assert lost == ["cancelled"]


async def test_subscriptions_survive_a_restart_of_the_server(tmp_path: Path) -> None:
    """After the server is killed and started again, the bus reconnects and its subscriptions deliver."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    bus = await Bus.connect(BusSettings(nats_url=server.url), "test")
    seen: list[str] = []
    back = asyncio.Event()
    bus.on_reconnect(back.set)
    await bus.subscribe("t.again", CancelRequest, lambda m, r: seen.append(m.request_id))
    server.kill()
    await eventually(lambda: bus.state is BusState.DISCONNECTED)
    assert bus.up_for_s() == 0.0
    server.start()
    await asyncio.wait_for(back.wait(), 10)
    await bus.publish("t.again", CancelRequest(request_id="x"))
    await eventually(lambda: seen == ["x"])
    await bus.close()
    server.stop()


async def test_any_of_several_servers_will_do(bus_settings: BusSettings) -> None:
    """Of several servers, separated by commas, one that answers is enough; what is no URL is told in a sentence."""
    absent = f"nats://127.0.0.1:{free_port()}"
    settings = bus_settings.model_copy(update={"nats_url": f"{absent}, {bus_settings.nats_url}"})
    connected = await Bus.connect(settings, "test")
    assert connected.is_connected
    await connected.close()
    with pytest.raises(Unavailable, match="SAGELLM_NATS_URL"):
        await Bus.connect(bus_settings.model_copy(update={"nats_url": "nats://host:port"}), "test")


async def test_micro_services_answer_discovery(bus: Bus) -> None:
    """`$SRV.PING`, `$SRV.INFO` and `$SRV.STATS` answer, and a faulty request is counted there as an error."""
    service = await MicroService.start(bus, "probe", "a probe", {"id": "p1"})
    await service.add_endpoint("cancel", "t.micro", CancelRequest, _found, queue="q")
    assert (await bus.request("t.micro", CancelRequest(request_id="a"), CancelReply)).found
    info = json.loads((await bus.client.request("$SRV.INFO.sagellm-probe", b"")).data)
    assert [endpoint["subject"] for endpoint in info["endpoints"]] == ["t.micro"]
    assert json.loads((await bus.client.request("$SRV.PING.sagellm-probe", b"")).data)["metadata"] == {"id": "p1"}
    stats = json.loads((await bus.client.request("$SRV.STATS.sagellm-probe", b"")).data)
    assert stats["endpoints"][0]["num_requests"] == 1
    await service.stop()


async def test_a_bucket_is_followed_through_put_delete_and_expiry(bus: Bus) -> None:
    """A follower reports what is there, what changes, and what the bucket's time to live removes."""
    bucket = await bus.bucket(bus.settings.subjects.bucket("t"), ttl_s=1.0)
    await bucket.put("a", Leader(scheduler_id="s1", started_at=1.0))
    seen: dict[str, str] = {}
    follower = await bucket.follow(
        Leader, lambda key, value: seen.update({key: value.scheduler_id}), lambda key: seen.pop(key), resync_s=0.2
    )
    assert seen == {"a": "s1"}
    await bucket.put("b", Leader(scheduler_id="s2", started_at=1.0))
    await eventually(lambda: seen.get("b") == "s2")
    await bucket.delete("b")
    await eventually(lambda: "b" not in seen)
    await eventually(lambda: not seen, what="expiry")
    await follower.stop()


async def test_a_lease_has_one_holder(bus: Bus) -> None:
    """`create` has one winner, `update` needs the last revision, and an expired lease can be taken over."""
    bucket = await bus.bucket(bus.settings.subjects.bucket("lease"), ttl_s=0.5)
    mine = await bucket.create("scheduler", Leader(scheduler_id="s1", started_at=0.0))
    assert mine is not None
    assert await bucket.create("scheduler", Leader(scheduler_id="s2", started_at=0.0)) is None
    renewed = await bucket.update("scheduler", Leader(scheduler_id="s1", started_at=0.0), mine)
    assert renewed is not None
    assert renewed > mine
    assert await bucket.update("scheduler", Leader(scheduler_id="s2", started_at=0.0), mine) is None

    taken: list[int] = []

    async def take() -> None:
        while not taken:
            revision = await bucket.create("scheduler", Leader(scheduler_id="s2", started_at=0.0))
            taken.extend([revision] if revision else [])
            await asyncio.sleep(0.05)

    await asyncio.wait_for(take(), 30)
    assert taken[0] > renewed


async def test_a_server_without_jetstream_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """A missing JetStream is found at start, not at the first durable write."""
    config = tmp_path / "nats.conf"
    config.write_text("jetstream: disabled\n")
    port = free_port()
    import subprocess

    from sagellm_common.nats_server import find_server

    process = subprocess.Popen([find_server(), "-a", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        bus = await Bus.connect(BusSettings(nats_url=f"nats://127.0.0.1:{port}"), "test")
        with pytest.raises(Unavailable, match="nats-server -js"):
            await bus.jetstream()
        await bus.close()
    finally:
        process.terminate()
        process.wait()


async def test_a_plain_client_can_read_what_the_bus_publishes(bus: Bus, nats_server: NatsServer) -> None:
    """The wire is plain NATS: another client's subscription gets the bytes of the codec."""
    plain = await nats.connect(nats_server.url)
    try:
        subscription = await plain.subscribe("t.plain")
        await plain.flush()
        await bus.publish("t.plain", CancelRequest(request_id="a"), content_type=JSON)
        msg = await subscription.next_msg(timeout=30)
        assert json.loads(msg.data) == {"request_id": "a", "reason": ""}
    finally:
        await plain.close()
