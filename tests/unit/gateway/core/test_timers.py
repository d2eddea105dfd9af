"""Timers of requests."""

from sagellm_gateway.core.request import Phase
from sagellm_gateway.core.timers import SMALL_HEAP, Timers
from support.gateway_core import make_request


def test_closed_requests_are_not_kept_until_their_deadline() -> None:
    """However many requests with far deadlines come and go, memory is bounded by those that are open."""
    timers = Timers()
    kept, _ = make_request("kept")
    timers.set(kept, 5.0)
    for number in range(3 * SMALL_HEAP):
        request, _ = make_request(f"r{number}")
        timers.set(request, 3600.0)
        request.phase = Phase.CLOSED
    assert len(timers) <= SMALL_HEAP + 1
    assert [request.request_id for request in timers.expired(10.0)] == ["kept"]
