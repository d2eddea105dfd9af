"""From acceptance to an engine, and on to the next one."""

import itertools

import pytest

from sagellm_common.contracts.scheduling import Notice, PrefillAssignment, SubmitReply
from sagellm_common.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SageError,
    Unavailable,
)
from sagellm_gateway.core import actions as act
from sagellm_gateway.core import events as ev
from sagellm_gateway.core.lifecycle import GatewayCore
from support.gateway_core import (
    MAX_TOKENS,
    item,
    leading_core,
    make_assignment,
    make_request,
    of,
    only,
    streaming_core,
)

QUEUED = SubmitReply(status="queued")


def test_an_accepted_request_is_submitted_at_once() -> None:
    """With leader and bus the description goes out with the acceptance."""
    request, _ = make_request()
    submit = only(leading_core().handle(ev.Accepted(request), 0.0), act.SendSubmit)
    assert (submit.scheduler_id, submit.submit.epoch, submit.submit.failed_engines) == ("s1", 0, ())


def test_without_a_leader_a_request_waits_ten_seconds() -> None:
    """It is submitted to the first leader that appears, or fails as unavailable."""
    core = GatewayCore()
    core.handle(ev.BusChanged(True), 0.0)
    assert not core.handle(ev.Accepted(make_request("r1")[0]), 0.0)
    assert not of(core.tick(9.9), act.Closed)
    assert len(of(core.handle(ev.LeaderChanged("s1"), 9.9), act.SendSubmit)) == 1
    core.handle(ev.LeaderChanged(None), 10.0)
    core.handle(ev.Accepted(make_request("r2", now=10.0)[0]), 10.0)
    closed = [a for step in range(60) for a in of(core.tick(10.0 + step / 5), act.Closed)]
    outcomes = {action.request.request_id: action.outcome for action in closed}
    assert isinstance(outcomes["r2"].error, Unavailable)
    assert outcomes["r2"].e2e_s == pytest.approx(10.0, abs=0.3)


@pytest.mark.parametrize("error", [Unavailable("gone"), DeadlineExceeded("late")])
def test_a_submission_that_fails_is_repeated_with_backoff(error: SageError) -> None:
    """A transient failure is repeated after growing pauses, for ten seconds."""
    core = leading_core()
    request, _ = make_request()
    submit = only(core.handle(ev.Accepted(request), 0.0), act.SendSubmit)
    now, sent = 0.0, []
    while request.request_id in core.requests:
        core.handle(ev.SubmitAnswered("r1", submit.attempt, error), now)
        while not (found := of(core.tick(now), act.SendSubmit)) and request.request_id in core.requests:
            now += 0.01
        if found:
            submit = found[0]
            sent.append(now)
    pauses = [b - a for a, b in itertools.pairwise(sent)]
    assert pauses[0] == pytest.approx(0.1, abs=0.03)
    assert pauses[-1] == pytest.approx(1.0, abs=0.05)
    assert now == pytest.approx(10.0, abs=0.1)


def resubmissions(core: GatewayCore, ticks: range) -> list[int]:
    """Tick once a second, answer every submission with "queued"; returns when there were any."""
    sent = []
    for now in ticks:
        for submit in of(core.tick(float(now)), act.SendSubmit):
            sent.append(now)
            core.handle(ev.SubmitAnswered("r1", submit.attempt, QUEUED), float(now))
    return sent


def test_a_queued_request_is_submitted_again_ever_more_rarely() -> None:
    """Its gateway asks anew when the wait has doubled, and at least every ten seconds; the next epoch begins anew."""
    core = leading_core()
    submit = only(core.handle(ev.Accepted(make_request()[0]), 0.0), act.SendSubmit)
    core.handle(ev.SubmitAnswered("r1", submit.attempt, QUEUED), 0.0)
    assert resubmissions(core, range(1, 40)) == [2, 4, 8, 16, 26, 36]
    dispatch = only(core.handle(ev.Assigned(make_assignment()), 40.0), act.SendDispatch)
    core.handle(ev.DispatchAnswered("r1", dispatch.attempt, Internal("fault")), 40.0)
    assert resubmissions(core, range(41, 50)) == [41, 43, 45, 49]


def test_a_new_leader_is_told_at_once_what_is_queued() -> None:
    """However long the next question to the old one would have taken."""
    core = leading_core()
    submit = only(core.handle(ev.Accepted(make_request()[0]), 0.0), act.SendSubmit)
    core.handle(ev.SubmitAnswered("r1", submit.attempt, QUEUED), 0.0)
    resubmissions(core, range(1, 28))
    assert only(core.handle(ev.LeaderChanged("s2"), 28.0), act.SendSubmit).scheduler_id == "s2"
    assert resubmissions(core, range(29, 31)) == [30], "its answer has not come: asked again after the first silence"


def test_an_error_of_the_request_itself_is_not_repeated() -> None:
    """What the scheduler finds invalid fails the request."""
    core = leading_core()
    submit = only(core.handle(ev.Accepted(make_request()[0]), 0.0), act.SendSubmit)
    actions = core.handle(ev.SubmitAnswered("r1", submit.attempt, InvalidArgument("no")), 0.0)
    assert isinstance(only(actions, act.Closed).outcome.error, InvalidArgument)


def test_an_answer_to_an_older_submission_is_void() -> None:
    """After a new leader was asked, the old one's failure says nothing."""
    core = leading_core()
    first = only(core.handle(ev.Accepted(make_request()[0]), 0.0), act.SendSubmit)
    core.handle(ev.LeaderChanged("s2"), 0.1)
    assert not core.handle(ev.SubmitAnswered("r1", first.attempt, NotFound("not the leader")), 0.2)
    assert "r1" in core.requests


def test_an_assignment_counts_with_or_without_the_reply() -> None:
    """The body goes out once, whether the reply comes before, after, or never; a second assignment is a duplicate."""
    core = leading_core()
    submit = only(core.handle(ev.Accepted(make_request()[0]), 0.0), act.SendSubmit)
    dispatch = only(core.handle(ev.Assigned(make_assignment()), 0.1), act.SendDispatch)
    assert not core.handle(ev.SubmitAnswered("r1", submit.attempt, QUEUED), 0.2)
    assert not core.handle(ev.Assigned(make_assignment(engine_id="e2")), 0.3)
    assert core.counts["duplicate"] == 1
    assert (dispatch.engine_id, dispatch.timeout_s, dispatch.dispatch.delivered) == ("e1", 2.0, [])


def test_assignments_of_older_leaders_and_epochs_are_dropped() -> None:
    """Leader epochs compare by order; an epoch that is over is not dispatched."""
    core = leading_core()
    core.handle(ev.Accepted(make_request()[0]), 0.0)
    core.handle(ev.Assigned(make_assignment("other", leader_epoch=(2, 1))), 0.0)
    assert not core.handle(ev.Assigned(make_assignment(leader_epoch=(1, 9))), 0.0)
    assert not core.handle(ev.Assigned(make_assignment(epoch=1, leader_epoch=(2, 1))), 0.0)
    assert core.counts["old_leader"] == 1
    assert of(core.handle(ev.Assigned(make_assignment(leader_epoch=(2, 2))), 0.0), act.SendDispatch)


@pytest.mark.parametrize("error", [ResourceExhausted("full"), NotFound("unknown"), Internal("fault")])
def test_a_refused_dispatch_goes_elsewhere(error: SageError) -> None:
    """The next epoch is submitted after a short pause and names the engine that refused."""
    core = leading_core()
    core.handle(ev.Accepted(make_request()[0]), 0.0)
    dispatch = only(core.handle(ev.Assigned(make_assignment()), 0.0), act.SendDispatch)
    moved = core.handle(ev.DispatchAnswered("r1", dispatch.attempt, error), 0.0)
    assert not of(moved, act.SendCancel)
    submit = only(core.tick(0.1), act.SendSubmit).submit
    assert (submit.epoch, submit.failed_engines) == (1, ("e1",))


def test_a_dispatch_without_answer_is_cancelled_before_the_next_epoch() -> None:
    """The engine may have the body: its epoch is cancelled."""
    core = leading_core()
    core.handle(ev.Accepted(make_request()[0]), 0.0)
    dispatch = only(core.handle(ev.Assigned(make_assignment()), 0.0), act.SendDispatch)
    actions = core.handle(ev.DispatchAnswered("r1", dispatch.attempt, DeadlineExceeded("no reply")), 2.0)
    cancel = only(actions, act.SendCancel)
    assert (cancel.engine_id, cancel.epoch) == ("e1", 0)
    assert only(core.tick(2.1), act.SendSubmit).submit.epoch == 1


def test_an_answer_lost_with_the_bus_is_not_held_against_the_engine() -> None:
    """A dispatch that failed because the bus was away is repeated in the same epoch."""
    core = leading_core()
    core.handle(ev.Accepted(make_request()[0]), 0.0)
    first = only(core.handle(ev.Assigned(make_assignment()), 0.0), act.SendDispatch)
    core.handle(ev.BusChanged(False), 0.5)
    assert not core.handle(ev.DispatchAnswered("r1", first.attempt, Unavailable("bus")), 1.0)
    again = only(core.handle(ev.BusChanged(True), 3.0), act.SendDispatch)
    assert (again.dispatch.epoch, again.engine_id) == (0, "e1")
    assert not core.handle(ev.DispatchAnswered("r1", first.attempt, DeadlineExceeded("late")), 3.1)
    assert "r1" in core.requests


def test_epochs_without_a_token_end_after_five() -> None:
    """A request that every engine refuses fails with the last refusal's code."""
    core = leading_core()
    core.handle(ev.Accepted(make_request()[0]), 0.0)
    now = 0.0
    for epoch in range(5):
        dispatch = only(core.handle(ev.Assigned(make_assignment(epoch=epoch)), now), act.SendDispatch)
        actions = core.handle(ev.DispatchAnswered("r1", dispatch.attempt, ResourceExhausted("full")), now)
        now += 2.0
        if epoch < 4:
            only(core.tick(now), act.SendSubmit)
    outcome = only(actions, act.Closed).outcome
    assert isinstance(outcome.error, ResourceExhausted)
    assert "5 attempts" in outcome.error.message


def test_progress_forgives_earlier_failures() -> None:
    """Once a token came, the count of idle epochs and the list of failed engines begin anew."""
    core, _ = streaming_core()
    now = 0.0
    for epoch in range(8):
        core.take([item(epoch, [epoch], epoch=epoch)], now)
        notice = Notice(kind="engine_lost", engine_id="e1", incarnation="e1-1")
        submit = only(core.handle(ev.Noticed(notice), now), act.SendSubmit).submit
        assert (submit.epoch, submit.delivered_tokens, submit.failed_engines) == (epoch + 1, epoch + 1, ("e1",))
        dispatch = only(core.handle(ev.Assigned(make_assignment(epoch=epoch + 1)), now), act.SendDispatch)
        core.handle(ev.DispatchAnswered("r1", dispatch.attempt, None), now)
        assert dispatch.dispatch.delivered == [list(range(epoch + 1))]


def test_a_choice_that_was_complete_is_not_generated_again() -> None:
    """If the engine is lost with the final frame, a full choice is finished by its length; the other one moves on."""
    core, sink = streaming_core(n=2)
    core.take([item(0, list(range(MAX_TOKENS))), item(0, [1], choice=1)], 0.0)
    notice = Notice(kind="engine_lost", engine_id="e1", incarnation="e1-1")
    core.handle(ev.Noticed(notice), 0.0)
    dispatch = only(core.handle(ev.Assigned(make_assignment(epoch=1, engine_id="e2")), 0.0), act.SendDispatch)
    assert dispatch.dispatch.finished_choices == [0]
    assert sink.ends == ["length", None]


def test_a_request_that_was_complete_ends_with_its_engine() -> None:
    """If all choices were complete, nothing moves: the request has finished."""
    core, sink = streaming_core()
    core.requests["r1"].end_token_ids = frozenset({7})
    core.take([item(0, [3, 7])], 0.0)
    notice = Notice(kind="engine_lost", engine_id="e1", incarnation="e1-1")
    assert only(core.handle(ev.Noticed(notice), 0.0), act.Closed).outcome.phase == "finished"
    assert sink.ends == ["stop"]


def test_a_deadline_holds_in_every_phase() -> None:
    """Queued or streaming, with or without bus, the request fails when its time is over."""
    for prepare in (lambda core: None, lambda core: core.handle(ev.BusChanged(False), 0.5)):
        core = leading_core()
        core.handle(ev.Accepted(make_request(deadline_at=1.0)[0]), 0.0)
        prepare(core)
        core.tick(0.9)
        assert isinstance(only(core.tick(1.01), act.Closed).outcome.error, DeadlineExceeded)


def test_a_cancel_stops_the_engine_and_closes_once() -> None:
    """A cancelled request is told to its engine; a second cancel, and late tokens, change nothing."""
    core, sink = streaming_core()
    actions = core.handle(ev.CancelAsked("r1", Cancelled("gone")), 0.0)
    assert only(actions, act.SendCancel).epoch is None
    assert only(actions, act.Closed).outcome.phase == "cancelled"
    assert not core.handle(ev.CancelAsked("r1", Cancelled("gone")), 0.0)
    assert not core.take([item(0, [1])], 0.0)
    assert sink.tokens == [[]]


def test_a_transient_rejection_of_a_started_stream_waits_for_engines() -> None:
    """Epoch 1 is submitted again while no engine is there; a queued epoch 0 is refused at once."""
    unavailable = {"code": "unavailable", "message": "no engine"}
    core, _ = streaming_core()
    lost = Notice(kind="engine_lost", engine_id="e1", incarnation="e1-1")
    submit = only(core.handle(ev.Noticed(lost), 0.0), act.SendSubmit)
    answer = ev.SubmitAnswered("r1", submit.attempt, SubmitReply(status="rejected", error=unavailable))
    assert not of(core.handle(answer, 0.0), act.Closed)
    assert only(core.tick(1.0), act.SendSubmit).submit.epoch == 1
    core = leading_core()
    submit = only(core.handle(ev.Accepted(make_request()[0]), 0.0), act.SendSubmit)
    core.handle(ev.SubmitAnswered("r1", submit.attempt, QUEUED), 0.0)
    late = Notice(kind="rejected", request_id="r1", epoch=0, error=unavailable)
    assert isinstance(only(core.handle(ev.Noticed(late), 0.0), act.Closed).outcome.error, Unavailable)


def test_a_scheduler_that_does_not_lead_refuses_nobody() -> None:
    """A new request that is answered with Unavailable goes to the next leader; after ten seconds it gets that error."""
    refusal = SubmitReply(status="rejected", error={"code": "unavailable", "message": "s1 is not the leader"})
    core = leading_core()
    submit = only(core.handle(ev.Accepted(make_request()[0]), 0.0), act.SendSubmit)
    assert not core.handle(ev.SubmitAnswered("r1", submit.attempt, refusal), 0.0)
    again = only(core.handle(ev.LeaderChanged("s2"), 0.0), act.SendSubmit)
    assert (again.scheduler_id, again.submit.epoch) == ("s2", 0)
    late = core.handle(ev.SubmitAnswered("r1", again.attempt, refusal), 10.0)
    assert "not the leader" in str(only(late, act.Closed).outcome.error)


@pytest.mark.parametrize("itl_ms", [None, 15.0])
def test_the_engine_is_told_what_pace_is_promised(itl_ms: float | None) -> None:
    """The body carries the time from token to token that the assignment names, for the engine that prefills too."""
    core = leading_core()
    request, _ = make_request()
    core.handle(ev.Accepted(request), 0.0)
    prefill = PrefillAssignment(engine_id="e2", incarnation="e2-1", number=1)
    actions = core.handle(ev.Assigned(make_assignment(itl_ms=itl_ms, prefill=prefill)), 0.0)
    assert only(actions, act.SendDispatch).dispatch.itl_ms == itl_ms
    assert only(actions, act.SendPrefill).dispatch.itl_ms == itl_ms
