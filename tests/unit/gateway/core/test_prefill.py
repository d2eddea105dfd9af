"""A request whose prompt another engine prefills: who gets what, and who is told when something ends."""

from sagellm_common.contracts.scheduling import PrefillAssignment
from sagellm_common.errors import Cancelled, Unavailable
from sagellm_gateway.core import actions as act
from sagellm_gateway.core import events as ev
from sagellm_gateway.core.lifecycle import GatewayCore
from support.gateway_core import item, leading_core, make_assignment, make_request, of, only

PREFILL = PrefillAssignment(engine_id="p1", incarnation="p1-7", number=9)


def begun() -> tuple[GatewayCore, list[act.Action]]:
    """A core with request `r1`, prefilled on `p1` and decoded on `e1`, and what it did with the assignment."""
    core = leading_core()
    request, _ = make_request()
    core.handle(ev.Accepted(request), 0.0)
    return core, core.handle(ev.Assigned(make_assignment(prefill=PREFILL)), 0.0)


def test_both_engines_get_the_body() -> None:
    """Each with its own incarnation and number, and the other's name."""
    _, actions = begun()
    decode, prefill = only(actions, act.SendDispatch), only(actions, act.SendPrefill)
    assert (decode.engine_id, decode.dispatch.prefill_engine, decode.dispatch.decode_engine) == ("e1", "p1", "")
    assert (prefill.engine_id, prefill.dispatch.prefill_engine, prefill.dispatch.decode_engine) == ("p1", "", "e1")
    assert (prefill.dispatch.incarnation, prefill.dispatch.assignment_number) == ("p1-7", 9)
    assert prefill.dispatch.prompt_token_ids == decode.dispatch.prompt_token_ids


def test_a_refusal_to_prefill_is_passed_on() -> None:
    """The engine that decodes prefills itself; the request stays where it is."""
    core, _ = begun()
    abort = only(core.handle(ev.PrefillAnswered("r1", 0, Unavailable("draining")), 0.1), act.SendAbort)
    assert (abort.engine_id, abort.abort.request_id, abort.abort.epoch) == ("e1", "r1", 0)
    assert core.requests["r1"].epoch == 0
    assert core.handle(ev.PrefillAnswered("r1", 0, None), 0.1) == []
    assert core.handle(ev.PrefillAnswered("r1", 7, Unavailable("late")), 0.1) == []


def test_a_lost_prefill_engine_is_passed_on_until_tokens_come() -> None:
    """Afterwards its loss means nothing to the request."""
    core, _ = begun()
    core.handle(ev.Reported("p1", "p1-7"), 0.1)
    abort = only(core.handle(ev.Reported("p1", "p1-8"), 0.2), act.SendAbort)
    assert abort.engine_id == "e1"
    core.take([item(0, [5])], 0.3)
    assert of(core.handle(ev.Reported("p1", "p1-9"), 0.4), act.SendAbort) == []
    assert core.requests["r1"].epoch == 0


def test_a_silent_prefill_engine_is_lost_like_any_other() -> None:
    """It is watched from the assignment on."""
    core, _ = begun()
    actions: list[act.Action] = []
    for tick in range(1, 80):
        now = tick * 0.05
        core.handle(ev.Reported("e1", "e1-1"), now)
        actions += core.tick(now)
    assert only(actions, act.SendAbort).abort.request_id == "r1"


def test_a_cancel_goes_to_both_until_tokens_come() -> None:
    """Then the prefill engine has nothing any more."""
    core, _ = begun()
    actions = core.handle(ev.CancelAsked("r1", Cancelled("gone")), 0.1)
    assert {cancel.engine_id for cancel in of(actions, act.SendCancel)} == {"e1", "p1"}
    core, _ = begun()
    core.take([item(0, [5])], 0.1)
    actions = core.handle(ev.CancelAsked("r1", Cancelled("gone")), 0.2)
    assert [cancel.engine_id for cancel in of(actions, act.SendCancel)] == ["e1"]


def test_a_request_that_moves_stops_its_prefill() -> None:
    """The next epoch is placed anew, and may be prefilled elsewhere again."""
    core, actions = begun()
    attempt = only(actions, act.SendDispatch).attempt
    actions = core.handle(ev.DispatchAnswered("r1", attempt, Unavailable("draining")), 0.1)
    assert ("p1", 0) in {(cancel.engine_id, cancel.epoch) for cancel in of(actions, act.SendCancel)}
    assert core.requests["r1"].assignment is None
    again = core.handle(ev.Assigned(make_assignment(epoch=1, engine_id="e2", prefill=PREFILL)), 0.5)
    assert only(again, act.SendPrefill).dispatch.epoch == 1


def test_the_transfer_is_among_the_figures() -> None:
    """As the engine told with the first token."""
    core, _ = begun()
    core.take([item(0, [5], transfer_ms=4.5)], 0.1)
    closed = only(core.take([item(1, [6], finish="length")], 0.2), act.Closed)
    assert closed.outcome.transfer_ms == 4.5
