"""Limits on waiting requests."""

from sagellm_scheduler.core.requests import Request, State
from sagellm_scheduler.core.timers import SMALL_HEAP, Limit, Timers
from support.scheduling import submit


def test_requests_that_wait_no_more_are_not_kept_until_their_deadline() -> None:
    """However many requests with far deadlines are placed, memory is bounded by those that wait."""
    timers = Timers()
    waiting = Request(submit("waiting"), 0.0, 0.0, 0)
    timers.set(5.0, Limit.QUEUE_TIME, waiting)
    for number in range(1, 3 * SMALL_HEAP):
        request = Request(submit(f"r{number}"), 0.0, 0.0, number)
        timers.set(3600.0, Limit.DEADLINE, request)
        request.state = State.ASSIGNED
    assert len(timers) <= SMALL_HEAP + 1
    assert timers.due(10.0) == [(Limit.QUEUE_TIME, waiting)]
