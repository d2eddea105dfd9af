"""An engine alone: what it refuses, with which error, and that it goes on."""

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats.aio.msg import Msg

from sagellm_common.bus.messages import decode_reply
from sagellm_common.contracts.dispatch import DispatchReply
from sagellm_common.errors import InvalidArgument, NotFound, PayloadTooLarge, ResourceExhausted, Unavailable
from support.engine_peer import EnginePeer
from support.processes import ServiceProcess

StartEngine = Callable[..., Awaitable[tuple[ServiceProcess, EnginePeer]]]


async def test_a_dispatch_for_an_older_incarnation_is_refused(shared_engine: StartEngine) -> None:
    """An assignment that was made before the engine was restarted is unavailable, not computed."""
    _, peer = await shared_engine()
    with pytest.raises(Unavailable, match="restarted"):
        await peer.dispatch(peer.make(incarnation="old"))
    await peer.run()


async def test_an_unknown_model_is_not_found(start_engine: StartEngine) -> None:
    """A dispatch for a model that this engine does not serve is refused by name."""
    _, peer = await start_engine(model="m/one")
    assert peer.engine.models == ("m/one",)
    with pytest.raises(NotFound, match="other") as caught:
        await peer.dispatch(peer.make(model="other"))
    assert caught.value.param == "model"
    await peer.run()


INVALID: tuple[tuple[dict[str, Any], str], ...] = (
    ({"prompt_token_ids": [1] * 64}, "prompt"),
    ({"prompt_token_ids": []}, "prompt"),
    ({"prompt_token_ids": [10**9]}, "prompt"),
    ({"prompt_token_ids": [-1]}, "prompt"),
    ({"delivered": [[1], [2]]}, "delivered"),
    ({"min_tokens": 9}, "min_tokens"),
    ({"stop_token_ids": (10**9,)}, "stop_token_ids"),
    ({"seed": None}, "sampling"),
    ({"max_tokens": None}, "sampling"),
)


async def test_what_cannot_be_computed_is_an_invalid_argument(start_engine: StartEngine) -> None:
    """A prompt over the context, an empty one, unknown tokens and absurd options name the parameter at fault."""
    _, peer = await start_engine(max_model_len=64)
    for changes, param in INVALID:
        with pytest.raises(InvalidArgument) as caught:
            await peer.dispatch(peer.make(**changes))
        assert caught.value.param == param
    await peer.run()


MALFORMED = (b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03", b"\xff" * 100, b'{"request_id": "a"}')


async def test_a_malformed_message_is_an_invalid_argument(shared_engine: StartEngine) -> None:
    """Bytes that are no message get a typed error on every subject of the engine, which goes on."""
    _, peer = await shared_engine()
    subjects, engine_id = peer.subjects, peer.engine.engine_id
    served = (
        subjects.engine_dispatch(engine_id),
        subjects.engine_cancel(engine_id),
        subjects.engine_resend(engine_id),
        subjects.engine_control(engine_id),
    )
    for subject, body in itertools.product(served, MALFORMED):
        msg: Msg = await peer.bus.client.request(subject, body, timeout=5)
        with pytest.raises(InvalidArgument):
            decode_reply(DispatchReply, msg)
    for body in MALFORMED:
        await peer.bus.client.publish(subjects.engine_ack(engine_id), body)
    await peer.run()


async def test_a_prompt_over_the_bus_limit_never_reaches_the_wire(shared_engine: StartEngine) -> None:
    """A dispatch that the server would not carry is payload_too_large at the sender; the connection stays."""
    _, peer = await shared_engine()
    with pytest.raises(PayloadTooLarge):
        await peer.dispatch(peer.make(prompt_token_ids=[70_000] * 2_000_000))
    await peer.run()


async def test_a_full_engine_says_so(start_engine: StartEngine) -> None:
    """With one sequence running and one waiting the third is resource_exhausted; it is taken when there is room."""
    _, peer = await start_engine(max_num_seqs=1, max_waiting=1, mock_step_ms=2)
    running, waiting = peer.make(max_tokens=10_000), peer.make(max_tokens=5)
    await peer.dispatch(running)
    await peer.dispatch(waiting)
    third = peer.make()
    with pytest.raises(ResourceExhausted):
        await peer.dispatch(third)
    await peer.reported(lambda report: report.gauges.waiting == 1)
    await peer.cancel(running.request_id)
    await peer.ended(waiting)
    await peer.dispatch(third)
    await peer.ended(third)


async def test_a_draining_engine_refuses_new_requests_and_finishes_the_old(start_engine: StartEngine) -> None:
    """After `drain` a new request is unavailable, a repeated one is known, what runs ends, `resume` takes it back."""
    _, peer = await start_engine(mock_step_ms=5)
    running = peer.make(max_tokens=60)
    await peer.dispatch(running)
    assert (await peer.control("drain")).state == "draining"
    with pytest.raises(Unavailable, match="draining"):
        await peer.dispatch(peer.make())
    assert (await peer.dispatch(running)).duplicate
    await peer.registered_as("draining")
    await peer.reported(lambda report: report.state == "draining")
    key = await peer.ended(running)
    assert len(peer.tokens[key]) == 60
    assert (await peer.control("resume")).state == "ready"
    await peer.registered_as("ready")
    await peer.run()
