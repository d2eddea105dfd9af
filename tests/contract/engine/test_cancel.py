"""An engine alone: cancellation by gateways, deadlines, and gateways that are gone."""

from collections.abc import Awaitable, Callable

import pytest

from sagellm_common.errors import Cancelled, DeadlineExceeded
from support.engine_peer import EnginePeer
from support.processes import ServiceProcess
from support.wait import eventually

StartEngine = Callable[..., Awaitable[tuple[ServiceProcess, EnginePeer]]]
ENDLESS = 10_000


async def test_a_cancel_frees_the_pages_and_ends_the_frames(shared_engine: StartEngine) -> None:
    """After a cancel the engine holds no page for the request, tells its end once, and keeps nothing of it."""
    _, peer = await shared_engine(mock_step_ms=5)
    dispatch = peer.make(max_tokens=ENDLESS)
    await peer.dispatch(dispatch)
    key = (dispatch.request_id, 0, 0)
    await eventually(lambda: len(peer.tokens[key]) > 5)
    assert await peer.cancel(dispatch.request_id)
    await peer.ended(dispatch)
    assert peer.ends[key].finish == "cancelled"
    await peer.idle()
    assert await peer.held() == 0
    ends = [item for frame in peer.frames for item in frame.items if item.finish is not None]
    assert len(ends) == 1
    assert ends[0] is peer.frames[-1].items[-1]
    assert not await peer.cancel(dispatch.request_id)


async def test_a_cancel_may_overtake_its_dispatch(shared_engine: StartEngine) -> None:
    """A (request, epoch) that was cancelled first is refused when it comes; the next epoch is taken."""
    _, peer = await shared_engine()
    dispatch = peer.make()
    assert not await peer.cancel(dispatch.request_id, epoch=0)
    with pytest.raises(Cancelled):
        await peer.dispatch(dispatch)
    await peer.run(request_id=dispatch.request_id, epoch=1)
    assert {item.epoch for frame in peer.frames for item in frame.items} == {1}


async def test_a_cancel_without_an_epoch_covers_all_of_them(shared_engine: StartEngine) -> None:
    """A cancel that names no epoch refuses every later dispatch of the request."""
    _, peer = await shared_engine()
    await peer.cancel("never-dispatched")
    for epoch in (0, 3):
        with pytest.raises(Cancelled):
            await peer.dispatch(peer.make(request_id="never-dispatched", epoch=epoch))


async def test_a_cancel_of_an_old_epoch_leaves_the_new_one_alone(shared_engine: StartEngine) -> None:
    """Epoch 1 goes on when epoch 0 is cancelled."""
    _, peer = await shared_engine(mock_step_ms=5)
    dispatch = peer.make(epoch=1, max_tokens=50)
    await peer.dispatch(dispatch)
    assert not await peer.cancel(dispatch.request_id, epoch=0)
    key = await peer.ended(dispatch)
    assert peer.ends[key].finish == "length"


async def test_a_deadline_ends_a_request_with_a_typed_error(shared_engine: StartEngine) -> None:
    """A request that is not done in time ends with deadline_exceeded, and one that comes too late is refused so."""
    _, peer = await shared_engine(mock_step_ms=5)
    key = await peer.run(max_tokens=ENDLESS, deadline_ms=60)
    end = peer.ends[key]
    assert end.finish == "error"
    assert end.error is not None
    assert end.error["code"] == "deadline_exceeded"
    assert peer.tokens[key]
    await peer.idle()
    with pytest.raises(DeadlineExceeded):
        await peer.dispatch(peer.make(deadline_ms=-1))


async def test_the_requests_of_a_lost_gateway_are_cancelled(start_engine: StartEngine) -> None:
    """When a gateway's heartbeat ends its requests end and free their pages; another gateway's go on."""
    _, peer = await start_engine(mock_step_ms=5, gateway_timeout_s=1)
    other = EnginePeer(peer.bus, peer.engine, "gw2")
    await other.open()
    lost, kept = peer.make(max_tokens=ENDLESS), other.make(max_tokens=ENDLESS)
    await peer.dispatch(lost)
    await other.dispatch(kept)
    key = (kept.request_id, 0, 0)
    peer.heartbeats = False
    await peer.ended(lost)
    assert peer.ends[lost.request_id, 0, 0].finish == "cancelled"
    seen = len(other.tokens[key])
    await eventually(lambda: len(other.tokens[key]) > seen + 5)
    assert key not in other.ends
    await other.close()
