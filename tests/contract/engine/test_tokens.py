"""An engine alone: requests in, token frames out."""

from collections.abc import Awaitable, Callable

from support.engine_peer import EnginePeer
from support.processes import ServiceProcess
from support.wait import eventually

StartEngine = Callable[..., Awaitable[tuple[ServiceProcess, EnginePeer]]]


async def test_a_request_comes_back_as_frames_in_order(shared_engine: StartEngine) -> None:
    """A dispatch is answered, its tokens come in numbered frames with contiguous indexes, and an ack forgets it."""
    _, peer = await shared_engine()
    dispatch = peer.make(max_tokens=40)
    assert not (await peer.dispatch(dispatch)).duplicate
    key = await peer.ended(dispatch)
    assert len(peer.tokens[key]) == 40
    assert peer.ends[key].finish == "length"
    assert peer.gaps == []
    assert [frame.number for frame in peer.frames] == list(range(1, len(peer.frames) + 1))
    assert {(frame.engine_id, frame.incarnation) for frame in peer.frames} == {
        (peer.engine.engine_id, peer.engine.incarnation)
    }
    indexes = [item.first_index for frame in peer.frames for item in frame.items if item.token_ids]
    assert indexes == list(range(40))
    assert await peer.held() == 1
    await peer.ack(dispatch)
    assert await peer.held() == 0
    await peer.idle()


async def test_a_repeated_dispatch_is_computed_once(shared_engine: StartEngine) -> None:
    """The same (request, epoch) is answered as a duplicate while it runs, after its end, and after its ack."""
    _, peer = await shared_engine(mock_step_ms=5)
    dispatch = peer.make(max_tokens=20)
    first = await peer.dispatch(dispatch)
    again = await peer.dispatch(dispatch)
    assert (first.duplicate, again.duplicate) == (False, True)
    key = await peer.ended(dispatch)
    assert (await peer.dispatch(dispatch)).duplicate
    await peer.ack(dispatch)
    assert (await peer.dispatch(dispatch)).duplicate
    report = await peer.idle()
    assert report.gauges.running == 0
    assert len(peer.tokens[key]) == 20
    assert sum(len(item.token_ids) for frame in peer.frames for item in frame.items) == 20


async def test_a_newer_epoch_replaces_the_older_one(shared_engine: StartEngine) -> None:
    """A dispatch of epoch 1 ends epoch 0 on the same engine; its frames carry the new epoch alone."""
    _, peer = await shared_engine(mock_step_ms=5)
    old = peer.make(max_tokens=5000)
    await peer.dispatch(old)
    await eventually(lambda: len(peer.tokens[old.request_id, 0, 0]) > 3)
    delivered = list(peer.tokens[old.request_id, 0, 0])
    new = peer.make(request_id=old.request_id, epoch=1, max_tokens=len(delivered) + 10, delivered=[delivered])
    await peer.dispatch(new)
    await peer.ended(new)
    report = await peer.idle()
    assert report.gauges.running == 0
    assert (old.request_id, 0, 0) not in peer.ends


async def test_each_choice_has_its_own_tokens(shared_engine: StartEngine) -> None:
    """A request for three choices streams three different sequences under one request id."""
    _, peer = await shared_engine()
    dispatch = peer.make(n=3, max_tokens=12, temperature=1.0)
    await peer.dispatch(dispatch)
    keys = [await peer.ended(dispatch, choice) for choice in range(3)]
    streams = [tuple(peer.tokens[key]) for key in keys]
    assert [len(stream) for stream in streams] == [12, 12, 12]
    assert len(set(streams)) == 3


async def test_log_probabilities_travel_with_their_tokens(shared_engine: StartEngine) -> None:
    """With logprobs=2 every token carries its own log-probability and two alternatives."""
    _, peer = await shared_engine()
    key = await peer.run(max_tokens=5, logprobs=2)
    assert len(peer.logprobs[key]) == 5
    for token, (logprob, top) in zip(peer.tokens[key], peer.logprobs[key], strict=True):
        assert logprob <= 0.0
        assert [len(pair) for pair in top] == [2, 2]
        assert top[0][0] == token


async def test_one_frame_per_step_carries_all_requests_of_a_gateway(shared_engine: StartEngine) -> None:
    """Ten requests that run together share frames, each with at most one item of a choice."""
    _, peer = await shared_engine(mock_step_ms=5)
    dispatches = [peer.make(max_tokens=30) for _ in range(10)]
    for dispatch in dispatches:
        await peer.dispatch(dispatch)
    for dispatch in dispatches:
        await peer.ended(dispatch)
    sizes = [len(frame.items) for frame in peer.frames]
    assert max(sizes) == 10
    assert len(sizes) <= 45
    for frame in peer.frames:
        assert len({(item.request_id, item.choice) for item in frame.items}) == len(frame.items)


async def test_two_gateways_get_separate_frames(shared_engine: StartEngine) -> None:
    """Each gateway is sent its own requests' tokens only, under its own frame numbers."""
    _, first = await shared_engine(mock_step_ms=5)
    second = EnginePeer(first.bus, first.engine, "gateway/2")
    await second.open()
    mine, theirs = first.make(max_tokens=30), second.make(max_tokens=30)
    await first.dispatch(mine)
    await second.dispatch(theirs)
    await first.ended(mine)
    await second.ended(theirs)
    await second.close()
    for peer, dispatch in ((first, mine), (second, theirs)):
        assert {item.request_id for frame in peer.frames for item in frame.items} == {dispatch.request_id}
        assert [frame.number for frame in peer.frames] == list(range(1, len(peer.frames) + 1))


async def test_a_migrated_request_goes_on_with_the_same_tokens(shared_engine: StartEngine) -> None:
    """With the delivered tokens in the dispatch another engine continues the stream as if nothing had happened."""
    _, first = await shared_engine()
    _, second = await shared_engine(mock_step_ms=5)
    whole = first.tokens[await first.run(max_tokens=24, prompt_token_ids=[5, 6, 7])]
    moved = second.make(epoch=1, max_tokens=24, prompt_token_ids=[5, 6, 7], delivered=[whole[:9]])
    await second.dispatch(moved)
    key = await second.ended(moved)
    assert second.tokens[key] == whole[9:]
    assert second.ends[key].first_index == 23


async def test_a_heartbeat_says_how_far_each_request_is(shared_engine: StartEngine) -> None:
    """Heartbeats name index and end of every unacknowledged request, and the last assignment that was seen."""
    _, peer = await shared_engine()
    dispatch = peer.make(max_tokens=6, leader_epoch=(5, 2), assignment_number=41)
    await peer.dispatch(dispatch)
    key = await peer.ended(dispatch)
    await eventually(lambda: key in peer.progress() and peer.progress()[key].final)
    assert peer.progress()[key].next_index == 6
    report = peer.reports[-1]
    assert (tuple(report.leader_epoch), report.last_assignment) == ((5, 2), 41)
    await peer.run(leader_epoch=(5, 1), assignment_number=99)
    await peer.run(leader_epoch=(6, 1), assignment_number=3)
    newer = await peer.reported(lambda report: tuple(report.leader_epoch) == (6, 1))
    assert newer.last_assignment == 3
    assert all(r.last_assignment == 41 for r in peer.reports if tuple(r.leader_epoch) == (5, 2))
    await peer.ack(dispatch)
    await eventually(lambda: key not in peer.progress())


async def test_a_report_counts_every_assignment_that_it_acknowledges(shared_engine: StartEngine) -> None:
    """A step of half a second is under way when a second request comes: heartbeats meanwhile know of neither, and say
    so; otherwise a scheduler would count them nowhere, and send the next one there, too."""
    _, peer = await shared_engine(mock_step_ms=5, mock_prefill_ms_per_token=0.1)
    requests = [peer.make(max_tokens=400, prompt_token_ids=[7] * length) for length in (5000, 3)]
    for request in requests:
        await peer.dispatch(request)
    last = requests[-1].assignment_number
    await peer.reported(lambda report: report.last_assignment >= last and report.gauges.running == 2)
    for report in peer.reports:
        num_known = report.last_assignment - requests[0].assignment_number + 1
        assert report.gauges.running + report.gauges.waiting >= num_known
    assert any(report.last_assignment < last for report in peer.reports)
    for request in requests:
        await peer.cancel(request.request_id)
    await peer.idle()


async def test_reports_describe_every_step(shared_engine: StartEngine) -> None:
    """The step samples of all reports add up to the prompt and the tokens that were computed."""
    _, peer = await shared_engine()
    await peer.run(max_tokens=11, prompt_token_ids=list(range(1, 51)))
    await eventually(lambda: sum(s.decode_seqs for r in peer.reports for s in r.steps) == 10)
    steps = [step for report in peer.reports for step in report.steps]
    assert sum(step.prefill_tokens for step in steps) == 50
    assert sum(step.rows for step in steps) == 60
    numbers = [report.number for report in peer.reports]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
