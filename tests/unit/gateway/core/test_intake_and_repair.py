"""Taking tokens, noticing what is missing, and a client that is too slow."""

from sagellm_common.contracts.reports import Progress
from sagellm_common.errors import DeadlineExceeded, Internal, NotFound, ResourceExhausted
from sagellm_gateway.core import actions as act
from sagellm_gateway.core import events as ev
from sagellm_gateway.core.lifecycle import GatewayCore
from support.gateway_core import CheckingSink, item, make_assignment, of, only, streaming_core


def report(core: GatewayCore, next_index: int, final: bool, now: float) -> list[act.Action]:
    """A heartbeat of `e1` about `r1`."""
    return core.handle(ev.Reported("e1", "e1-1", [Progress("r1", 0, 0, next_index, final)]), now)


def moved(core: GatewayCore, start: float, end: float) -> list[act.Migrated]:
    """Tick as the edge does, from `start` to `end`; return what moved meanwhile."""
    ticks = range(int(start * 20), int(end * 20))
    return [action for tick in ticks for action in of(core.tick(tick / 20), act.Migrated)]


def test_tokens_are_taken_once_and_the_end_is_acknowledged() -> None:
    """In order, repeated, partly repeated: the sink has each token once; the last one closes and acknowledges."""
    core, sink = streaming_core()
    assert only(core.take([item(0, [1, 2])], 1.0), act.FirstToken).ttft_s == 1.0
    core.take([item(0, [1, 2]), item(1, [2, 3])], 1.1)
    actions = core.take([item(3, [4], finish="stop")], 1.3)
    assert sink.tokens == [[1, 2, 3, 4]]
    assert (only(actions, act.SendAck).engine_id, only(actions, act.SendAck).epoch) == ("e1", 0)
    outcome = only(actions, act.Closed).outcome
    assert (outcome.phase, outcome.completion_tokens, outcome.ttft_s) == ("finished", 4, 1.0)
    assert [round(gap, 6) for gap in outcome.gaps_s] == [0.1, 0.2]
    assert core.counts["duplicate"] == 3


def test_old_epochs_and_strangers_are_counted() -> None:
    """Items of older epochs, unknown requests and impossible choices are dropped and counted."""
    core, sink = streaming_core()
    lost = item(0, [1], epoch=-1)
    core.take([lost, item(0, [1], request_id="r2"), item(0, [1], choice=5), item(0, [1], choice=-1)], 0.0)
    assert sink.tokens == [[]]
    assert (core.counts["old_epoch"], core.counts["unknown"]) == (1, 3)


def test_a_gap_is_asked_for_once_until_answered() -> None:
    """One resend is under way at a time; what it brings is taken, and a gap that remains is asked for again."""
    core, sink = streaming_core()
    core.take([item(0, [1])], 0.0)
    resend = only(core.take([item(2, [3])], 0.0), act.SendResend).resend
    assert (resend.from_index, resend.choice, resend.epoch) == (1, 0, 0)
    assert not core.take([item(3, [4]), item(4, [5])], 0.0)
    again = core.handle(ev.Resent("r1", 0, 0, item(1, [2, 3, 4])), 0.1)
    assert sink.tokens == [[1, 2, 3, 4]]
    assert only(again, act.SendResend).resend.from_index == 4
    assert not core.handle(ev.Resent("r1", 0, 0, item(4, [5])), 0.2)
    assert sink.tokens == [[1, 2, 3, 4, 5]]


def test_a_resend_without_answer_is_repeated_then_the_engine_has_failed() -> None:
    """Five unanswered resends, with pauses, move the request to its next epoch."""
    core, _ = streaming_core()
    actions = core.take([item(1, [2])], 0.0)
    now, resends = 0.0, 0
    while not of(actions, act.Migrated):
        if of(actions, act.SendResend):
            resends += 1
            now += 2.0
            core.handle(ev.Reported("e1", "e1-1"), now)
            actions = core.handle(ev.Resent("r1", 0, 0, DeadlineExceeded("no reply")), now)
        else:
            now += 0.05
            actions = core.tick(now)
    assert resends == 5


def test_an_engine_that_has_forgotten_the_request_has_failed_it() -> None:
    """Not found as the answer to a resend moves the request at once."""
    core, _ = streaming_core()
    core.take([item(1, [2])], 0.0)
    assert of(core.handle(ev.Resent("r1", 0, 0, NotFound("unknown")), 0.0), act.Migrated)


def test_two_heartbeats_that_are_ahead_start_a_repair() -> None:
    """One heartbeat may overtake its frames; a second one with nothing new in between means that they are lost."""
    core, _ = streaming_core()
    core.take([item(0, [1])], 0.0)
    assert not report(core, 2, False, 0.5)
    core.take([item(1, [2])], 0.6)
    assert not report(core, 3, False, 1.0)
    assert only(report(core, 3, False, 1.5), act.SendResend).resend.from_index == 2


def test_a_lost_end_is_noticed() -> None:
    """Heartbeats that say final, at an index that we have, ask for the end."""
    core, sink = streaming_core()
    core.take([item(0, [1])], 0.0)
    report(core, 1, True, 0.5)
    assert only(report(core, 1, True, 1.0), act.SendResend).resend.from_index == 1
    actions = core.handle(ev.Resent("r1", 0, 0, item(1, [], finish="length")), 1.1)
    assert only(actions, act.Closed).outcome.phase == "finished"
    assert sink.ends == ["length"]


def test_a_silent_stream_is_asked_about() -> None:
    """After five seconds without frame or heartbeat entry the engine is asked whether it has the request."""
    core, _ = streaming_core()
    resends = []
    for step in range(200):
        now = step / 20
        core.handle(ev.Reported("e1", "e1-1"), now)
        resends += of(core.tick(now), act.SendResend)
    assert len(resends) == 1


def test_an_engine_is_lost_after_three_seconds_of_silence_on_a_good_bus() -> None:
    """Not while the bus is away, nor until it has been back as long."""
    core, _ = streaming_core()
    core.handle(ev.Reported("e1", "e1-1"), 0.0)
    core.handle(ev.BusChanged(False), 1.0)
    assert not moved(core, 1.0, 6.0)
    core.handle(ev.BusChanged(True), 6.0)
    assert not moved(core, 6.0, 8.9)
    assert moved(core, 8.9, 9.2)


def test_a_gateway_that_stood_still_does_not_blame_the_engines() -> None:
    """After a pause of its own, longer than any timeout, it reads what has come before it judges."""
    core, _ = streaming_core()
    core.handle(ev.Reported("e1", "e1-1"), 0.0)
    assert not moved(core, 0.0, 1.0)
    assert not of(core.tick(20.0), act.Migrated)
    core.handle(ev.Reported("e1", "e1-1"), 20.0)
    assert not moved(core, 20.0, 22.9)
    assert moved(core, 22.9, 23.2)


def test_frames_are_a_sign_of_life() -> None:
    """An engine whose reports are lost and whose frames arrive is not given up."""
    core, _ = streaming_core()
    for second in range(8):
        core.take([item(second, [1])], float(second), ("e1", "e1-1"))
        assert not of(core.tick(float(second)), act.Migrated)


def test_a_new_incarnation_ends_the_old_one_only() -> None:
    """Requests on the new incarnation stay where they are."""
    core, _ = streaming_core()
    assert of(core.handle(ev.Reported("e1", "e1-2"), 0.0), act.Migrated)
    core.handle(ev.Assigned(make_assignment(epoch=1, incarnation="e1-2")), 0.0)
    assert not core.handle(ev.Reported("e1", "e1-2"), 0.1)


def test_what_the_engine_fails_fails_the_request_or_moves_it() -> None:
    """An engine that goes down passes the request on; an error of the request ends it, with the engine's word."""
    core, _ = streaming_core()
    going = item(0, [], finish="error", error={"code": "unavailable", "message": "going down"})
    assert of(core.take([going], 0.0), act.Migrated)
    core, _ = streaming_core()
    fault = item(0, [], finish="error", error={"code": "internal", "message": "NaN in the logits"})
    error = only(core.take([fault], 0.0), act.Closed).outcome.error
    assert isinstance(error, Internal)
    assert "NaN" in error.message


def test_a_cancel_that_we_did_not_ask_for_moves_the_request() -> None:
    """An engine that gave us up, believing us gone, loses the request to another."""
    core, _ = streaming_core()
    assert of(core.take([item(0, [], finish="cancelled")], 0.0), act.Migrated)


def test_a_stop_string_ends_one_choice_and_the_last_one_the_work() -> None:
    """The engine is cancelled when no choice is wanted any more; tokens of a stopped choice are dropped."""
    core, sink = streaming_core(n=2)
    core.take([item(0, [1]), item(0, [1], choice=1)], 0.0)
    assert not core.handle(ev.Stopped("r1", 0), 0.0)
    core.take([item(1, [2])], 0.0)
    assert sink.tokens == [[1], [1]]
    actions = core.handle(ev.Stopped("r1", 1), 0.0)
    assert only(actions, act.SendCancel).engine_id == "e1"
    outcome = only(actions, act.Closed).outcome
    assert (outcome.phase, list(outcome.finish_reasons)) == ("finished", ["stop", "stop"])


def test_a_slow_client_gets_the_rest_when_it_has_read() -> None:
    """While its buffer is full nothing more is taken; once read, what was left out is asked for."""
    core, sink = streaming_core(sink=CheckingSink(capacity=2))
    core.take([item(0, [1, 2])], 0.0)
    assert not core.take([item(2, [3])], 0.1)
    assert not core.take([item(3, [4])], 0.2)
    sink.unread = 0
    resend = only(core.handle(ev.Drained("r1"), 1.0), act.SendResend).resend
    assert resend.from_index == 2
    core.handle(ev.Resent("r1", 0, 0, item(2, [3, 4], finish="length")), 1.1)
    assert sink.tokens == [[1, 2, 3, 4]]


def test_a_client_that_never_reads_loses_its_request() -> None:
    """After the timeout it fails with the typed error, the engine is told, and no other request has noticed."""
    core, _ = streaming_core(sink=CheckingSink(capacity=2), slow_client_timeout_s=5.0)
    core.take([item(0, [1, 2])], 0.0)
    core.take([item(2, [3])], 0.1)
    core.handle(ev.Reported("e1", "e1-1"), 4.0)
    assert not of(core.tick(5.0), act.Closed)
    actions = core.tick(5.2)
    assert isinstance(only(actions, act.Closed).outcome.error, ResourceExhausted)
    assert of(actions, act.SendCancel)


def test_what_an_engine_holds_for_nobody_is_cancelled_or_acknowledged() -> None:
    """Older epochs and closed requests in a heartbeat: unfinished ones are cancelled, finished ones acknowledged."""
    core, _ = streaming_core()
    progress = [Progress("gone", 0, 0, 3, False), Progress("done", 1, 0, 3, True), Progress("r1", 1, 0, 0, False)]
    actions = core.handle(ev.Reported("e2", "e2-1", progress), 0.0)
    assert [(c.request_id, c.epoch) for c in of(actions, act.SendCancel)] == [("gone", 0)]
    assert [(a.request_id, a.epoch) for a in of(actions, act.SendAck)] == [("done", 1)]


def test_open_requests_are_described_with_their_assignment() -> None:
    """A new leader learns epoch, delivered tokens and engine."""
    core, _ = streaming_core()
    core.take([item(0, [1, 2])], 0.0)
    (described,) = core.open_requests(1.0)
    assert (described.submit.delivered_tokens, described.submit.age_ms) == (2, 1000.0)
    assert described.assignment is not None
    assert described.assignment.engine_id == "e1"
