"""An engine alone: lost frames are repaired, and a lost bus costs nothing but time."""

from collections.abc import Awaitable, Callable

import pytest

from sagellm_common.bus import Bus
from sagellm_common.errors import InvalidArgument, NotFound
from sagellm_common.nats_server import NatsServer
from sagellm_common.settings import BusSettings
from support.engine_peer import EnginePeer
from support.processes import ServiceProcess, Services
from support.wait import eventually

StartEngine = Callable[..., Awaitable[tuple[ServiceProcess, EnginePeer]]]


async def test_lost_frames_are_resent_from_an_index_on(shared_engine: StartEngine) -> None:
    """A gateway that missed frames sees the gap and gets everything from its index on, mid-stream."""
    _, peer = await shared_engine(mock_step_ms=5)
    dispatch = peer.make(max_tokens=400, logprobs=1)
    key = (dispatch.request_id, 0, 0)
    await peer.dispatch(dispatch)
    await eventually(lambda: len(peer.tokens[key]) >= 10)
    peer.deaf = True
    have = len(peer.tokens[key])
    await eventually(lambda: key in peer.progress() and peer.progress()[key].next_index > have + 20)
    peer.deaf = False
    await eventually(lambda: bool(peer.gaps))
    item = await peer.resend(dispatch, have)
    assert (item.first_index, item.finish) == (have, None)
    assert len(item.token_ids) > 20
    await peer.repaired(dispatch)
    assert len(peer.tokens[key]) == len(peer.logprobs[key]) == 400


async def test_a_lost_final_frame_is_noticed_and_repaired(shared_engine: StartEngine) -> None:
    """The heartbeat shows an end that no frame told; a resend brings the last tokens and the end."""
    _, peer = await shared_engine()
    peer.deaf = True
    dispatch = peer.make(max_tokens=9)
    await peer.dispatch(dispatch)
    key = (dispatch.request_id, 0, 0)
    await eventually(lambda: key in peer.progress() and peer.progress()[key].final)
    assert peer.progress()[key].next_index == 9
    peer.take(await peer.resend(dispatch, 0))
    assert (len(peer.tokens[key]), peer.ends[key].finish) == (9, "length")
    again = await peer.resend(dispatch, 9)
    assert (again.token_ids, again.finish) == ([], "length")


async def test_a_resend_of_what_is_not_held_is_refused(shared_engine: StartEngine) -> None:
    """Unknown requests, epochs and choices are not_found, impossible indexes invalid_argument."""
    _, peer = await shared_engine()
    dispatch = peer.make(delivered=[[4, 5]], epoch=1)
    await peer.dispatch(dispatch)
    await peer.ended(dispatch)
    for unknown in (peer.make(), peer.make(request_id=dispatch.request_id, epoch=0)):
        with pytest.raises(NotFound):
            await peer.resend(unknown, 0)
    with pytest.raises(NotFound):
        await peer.resend(dispatch, 0, choice=1)
    for index in (-1, 1, 9):
        with pytest.raises(InvalidArgument):
            await peer.resend(dispatch, index)
    await peer.ack(dispatch)
    with pytest.raises(NotFound):
        await peer.resend(dispatch, 2)


async def test_a_resend_that_does_not_fit_into_a_message_comes_in_pieces(
    own_nats_server: NatsServer, services: Services
) -> None:
    """With a small max_payload frames are split, and a resend brings as much as fits, the end with the last piece."""
    own_nats_server.stop()
    own_nats_server.store.joinpath("small.conf").write_text("max_payload: 4096\n")
    server = NatsServer(own_nats_server.store, port=own_nats_server.port, config=own_nats_server.store / "small.conf")
    server.start()
    settings = BusSettings(nats_url=server.url, deployment="small")
    bus = await Bus.connect(settings, "test")
    process = services.start("engine", settings, engine_id="e1", backend="mock", mock_step_ms=20)
    peer = EnginePeer(bus, await process.registered(bus))
    await peer.open()
    dispatches = [peer.make(max_tokens=20, logprobs=20) for _ in range(16)]
    for dispatch in dispatches:
        await peer.dispatch(dispatch)
    for dispatch in dispatches:
        key = await peer.ended(dispatch)
        assert len(peer.logprobs[key]) == len(peer.tokens[key]) == 20
    assert peer.gaps == []
    assert [frame.number for frame in peer.frames] == list(range(1, len(peer.frames) + 1))
    assert max(len(frame.items) for frame in peer.frames) < 16
    whole, pieces = dispatches[0], 0
    fresh = EnginePeer(bus, peer.engine)
    while key not in fresh.ends:
        key = (whole.request_id, 0, 0)
        fresh.take(await peer.resend(whole, len(fresh.tokens[key])))
        pieces += 1
    assert pieces > 1
    assert fresh.tokens[key] == peer.tokens[key]
    await peer.close()
    await bus.close()
    server.stop()


async def test_a_stream_survives_a_restart_of_the_server(own_nats_server: NatsServer, services: Services) -> None:
    """While the server is gone the engine computes on; afterwards frames resume and a resend closes the gap."""
    settings = BusSettings(nats_url=own_nats_server.url, deployment="restart")
    bus = await Bus.connect(settings, "test")
    process = services.start("engine", settings, engine_id="e1", backend="mock", mock_step_ms=10, gateway_timeout_s=1)
    peer = EnginePeer(bus, await process.registered(bus))
    await peer.open()
    dispatch = peer.make(max_tokens=250)
    key = (dispatch.request_id, 0, 0)
    await peer.dispatch(dispatch)
    await eventually(lambda: len(peer.tokens[key]) > 10)
    own_nats_server.kill()
    await eventually(lambda: not bus.is_connected)
    own_nats_server.start()
    await eventually(lambda: bus.is_connected)
    await eventually(lambda: bool(peer.gaps) or key in peer.ends)
    await peer.repaired(dispatch)
    assert len(peer.tokens[key]) == 250
    assert peer.ends[key].finish == "length"
    assert (await peer.control("status")).state == "ready"
    assert (await process.registered(bus)).incarnation == peer.engine.incarnation
    await peer.close()
    await bus.close()
