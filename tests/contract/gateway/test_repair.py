"""What the gateway does when messages, engines or leaders are lost; the test plays everybody else."""

import pytest

from sagellm_common.bus import Bus
from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.reports import Progress
from sagellm_common.contracts.scheduling import Notice, OpenQuery, OpenReply
from sagellm_common.errors import InvalidArgument, ResourceExhausted
from support.gateway_peers import GATEWAY_ID, Caller, GatewayPeers
from support.processes import ServiceProcess
from support.wait import eventually

TEXT = " the quick brown fox jumps"


async def test_lost_frames_are_asked_for_again(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """A frame that leaves a gap makes the gateway ask from the first missing token on; the text has no hole."""
    caller = await Caller(bus).ask_for()
    engine = peers.engines["e1"]
    dispatch = await engine.dispatched()
    tokens = peers.tokens(TEXT)
    await engine.send(dispatch, 0, tokens[:1])
    await caller.has_text(peers.tokenizer.decode(tokens[:1]))
    engine.kept[dispatch.request_id, 0, 0] = TokenItem(dispatch.request_id, 0, 0, 0, tokens, finish="length")
    await engine.send(dispatch, 3, tokens[3:4])
    await caller.final()
    assert caller.text == TEXT
    assert [(r.from_index, r.choice) for r in engine.resends] == [(1, 0)]


async def test_a_lost_final_frame_is_repaired_by_the_heartbeat(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """When the engine's heartbeats say that a request has ended further on, the rest is asked for."""
    caller = await Caller(bus).ask_for()
    engine = peers.engines["e1"]
    dispatch = await engine.dispatched()
    tokens = peers.tokens(TEXT)
    await engine.send(dispatch, 0, tokens[:2])
    engine.kept[dispatch.request_id, 0, 0] = TokenItem(dispatch.request_id, 0, 0, 0, tokens, finish="length")
    engine.progress = [Progress(dispatch.request_id, 0, 0, len(tokens), True)]
    await caller.final()
    assert caller.text == TEXT


async def test_repeated_frames_change_nothing(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """Tokens that were delivered already are cut off, whole frames or parts of them."""
    caller = await Caller(bus).ask_for()
    engine = peers.engines["e1"]
    dispatch = await engine.dispatched()
    tokens = peers.tokens(TEXT)
    await engine.send(dispatch, 0, tokens[:2])
    await engine.send(dispatch, 0, tokens[:2])
    await engine.send(dispatch, 1, tokens[1:], finish="length")
    await engine.send(dispatch, 1, tokens[1:], finish="length")
    final = await caller.final()
    assert caller.text == TEXT
    assert final.usage is not None
    assert final.usage.completion_tokens == len(tokens)
    assert not engine.resends


@pytest.mark.parametrize("refusal", [ResourceExhausted("full"), None])
async def test_an_engine_that_does_not_take_a_request_is_replaced(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers, refusal: ResourceExhausted | None
) -> None:
    """A refused dispatch, or one that the engine does not know of, goes elsewhere as epoch 1."""
    engine = peers.engines["e1"]
    if refusal is None:
        engine.incarnation = "gone"
        refusal = ResourceExhausted("this is not that incarnation")
    engine.refuse = refusal
    caller = await Caller(bus).ask_for()
    dispatch = await peers.engines["e2"].dispatched()
    assert dispatch.epoch == 1
    assert (await peers.submitted(2)).failed_engines == ("e1",)
    await peers.engines["e2"].send(dispatch, 0, peers.tokens(" fox"), finish="length")
    await caller.final()
    assert caller.text == " fox"


async def test_an_engine_that_finds_the_request_wrong_ends_it(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """An invalid argument is not tried elsewhere."""
    peers.engines["e1"].refuse = InvalidArgument("no such token", param="logit_bias")
    caller = await Caller(bus).ask_for()
    assert (await caller.final()).error == {
        "code": "invalid_argument",
        "message": "no such token",
        "param": "logit_bias",
    }
    assert len(peers.submits) == 1


async def test_a_stream_continues_on_another_engine(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """When an engine is lost, epoch 1 begins behind what was delivered; what the old epoch still sends is dropped."""
    caller = await Caller(bus).ask_for()
    old, new = peers.engines["e1"], peers.engines["e2"]
    dispatch = await old.dispatched()
    tokens = peers.tokens(TEXT)
    await old.send(dispatch, 0, tokens[:2])
    await caller.has_text(peers.tokenizer.decode(tokens[:2]))
    await peers.notify(Notice(kind="engine_lost", engine_id="e1", incarnation=old.incarnation))
    moved = await new.dispatched()
    assert (moved.epoch, moved.delivered) == (1, [tokens[:2]])
    assert peers.submits[-1].delivered_tokens == 2
    await old.send(dispatch, 2, peers.tokens("wrong"), finish="length")
    await new.send(moved, 2, tokens[2:], finish="length")
    await caller.final()
    assert caller.text == TEXT
    await eventually(lambda: (dispatch.request_id, 1) in new.acks, what="the ack")


async def test_a_silent_engine_is_given_up_without_any_scheduler(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """An engine that stops to report is lost by the gateway's own judgement, one second after the scheduler's."""
    caller = await Caller(bus).ask_for()
    old, new = peers.engines["e1"], peers.engines["e2"]
    await old.dispatched()
    old.reports = False
    moved = await new.dispatched()
    assert moved.epoch == 1
    await new.send(moved, 0, peers.tokens(" fox"), finish="length")
    await caller.final()


async def test_an_engine_that_was_started_again_is_lost_at_once(
    bus: Bus, gateway: ServiceProcess, peers: GatewayPeers
) -> None:
    """A report of a new incarnation ends what ran on the old one."""
    await Caller(bus).ask_for()
    old = peers.engines["e1"]
    await old.dispatched()
    await eventually(lambda: bool(peers.events), what="an event")
    old.incarnation += "-again"
    assert (await peers.engines["e2"].dispatched()).epoch == 1


async def test_a_new_leader_gets_what_has_no_engine_yet(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """When the leader changes, a queued request is submitted to the new one at once, with the same epoch."""
    peers.assign = False
    await Caller(bus).ask_for()
    first = await peers.submitted()
    peers.assign, peers.leader_epoch = True, (peers.run, 2)
    await peers.lead("s2")
    again = await peers.submitted(2)
    assert (again.request_id, again.epoch) == (first.request_id, 0)
    await peers.engines["e1"].dispatched()


async def test_silence_makes_the_gateway_submit_again(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """A lost assignment is repaired: after two seconds the same epoch is submitted again."""
    peers.assign = False
    await Caller(bus).ask_for()
    await peers.submitted()
    peers.assign = True
    again = await peers.submitted(2)
    assert again.epoch == 0
    assert again.age_ms >= 1900
    await peers.engines["e1"].dispatched()


async def test_an_assignment_may_overtake_the_reply(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """Assignment first, answer to the submission second: one dispatch, one stream; a second assignment is ignored."""
    caller = await Caller(bus).ask_for()  # the played scheduler publishes the assignment before it replies
    engine = peers.engines["e1"]
    dispatch = await engine.dispatched()
    await peers.assigned(peers.submits[0], "e2")
    await engine.send(dispatch, 0, peers.tokens(" fox"), finish="length")
    await caller.final()
    assert len(engine.dispatches) == 1
    assert not peers.engines["e2"].dispatches


async def test_an_old_leaders_assignment_is_ignored(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """After an assignment of a newer leader, one of the older leader counts no more."""
    peers.leader_epoch = (peers.run, 5)
    await Caller(bus).ask_for()
    await peers.engines["e1"].dispatched()
    peers.assign = False
    await Caller(bus).ask_for()
    submit = await peers.submitted(2)
    peers.leader_epoch = (peers.run, 4)
    await peers.assigned(submit, "e2")
    peers.leader_epoch = (peers.run, 6)
    await peers.assigned(submit, "e1")
    await peers.engines["e1"].dispatched(2)
    assert not peers.engines["e2"].dispatches


async def test_a_late_rejection_ends_the_request(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """A notice that a queued epoch was given up ends the stream with the scheduler's error."""
    peers.assign = False
    caller = await Caller(bus).ask_for()
    submit = await peers.submitted()
    await eventually(lambda: bool(caller.replies), what="acceptance")
    error = {"code": "resource_exhausted", "message": "waited too long"}
    await peers.notify(Notice(kind="rejected", request_id=submit.request_id, epoch=0, error=error))
    assert (await caller.final()).error == error


async def test_a_scheduler_learns_what_is_open_in_parts(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """A scheduler that asks gets every open request with its assignment, the last part marked."""
    await Caller(bus).ask_for()
    dispatch = await peers.engines["e1"].dispatched()
    parts: list[OpenReply] = []
    inbox = bus.new_inbox()
    await bus.subscribe(inbox, OpenReply, lambda part, _: parts.append(part))
    await bus.publish(bus.settings.subjects.gateway_open(GATEWAY_ID), OpenQuery(scheduler_id="s1"), reply=inbox)
    await eventually(lambda: any(part.last for part in parts), what="the last part")
    (open_request,) = [request for part in parts for request in part.requests]
    assert open_request.submit.request_id == dispatch.request_id
    assert open_request.assignment is not None
    assert open_request.assignment.engine_id == "e1"


async def test_a_lost_cancel_is_sent_again(bus: Bus, gateway: ServiceProcess, peers: GatewayPeers) -> None:
    """An engine whose heartbeat names a request that is not open here is told to stop it, or that it was received."""
    engine = peers.engines["e1"]
    engine.progress = [Progress("unknown", 0, 0, 3, False), Progress("ended", 2, 0, 3, True)]
    await eventually(lambda: ("unknown", 0) in [(c.request_id, c.epoch) for c in engine.cancels], what="a cancel")
    await eventually(lambda: ("ended", 2) in engine.acks, what="an ack")
