"""An engine alone: requests in, token frames out, and what repairs a lossy bus."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sagellm_common.bus import Bus
from sagellm_common.errors import InvalidArgument, NotFound
from support.engine_peer import EnginePeer
from support.processes import ServiceProcess
from support.wait import eventually

StartEngine = Callable[..., Awaitable[tuple[ServiceProcess, EnginePeer]]]


async def _held(peer: EnginePeer) -> Any:
    return (await peer.control("status")).detail["requests_held"]


async def test_a_request_comes_back_as_frames_in_order(start_engine: StartEngine) -> None:
    """A dispatch is answered, its tokens come in numbered frames with contiguous indexes, and an ack forgets it."""
    _, peer = await start_engine()
    dispatch = peer.make(max_tokens=40)
    assert not (await peer.dispatch(dispatch)).duplicate
    key = await peer.ended(dispatch)
    assert len(peer.tokens[key]) == 40
    assert peer.ends[key].finish == "length"
    assert peer.gaps == []
    assert [frame.number for frame in peer.frames] == list(range(1, len(peer.frames) + 1))
    assert {(frame.engine_id, frame.incarnation) for frame in peer.frames} == {("e1", peer.engine.incarnation)}
    indexes = [item.first_index for frame in peer.frames for item in frame.items if item.token_ids]
    assert indexes == list(range(40))
    assert await _held(peer) == 1
    await peer.ack(dispatch)
    assert await _held(peer) == 0
    await peer.idle()
