"""Queue policies: their order, the guard against starvation, plug-ins, live change."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm_common.contracts.slo import Priority, Slo
from sagellm_common.errors import InvalidArgument
from sagellm_scheduler.core import events
from sagellm_scheduler.core.requests import Prospect, Request
from sagellm_scheduler.queueing.fifo import Fifo
from sagellm_scheduler.queueing.policy import QUEUE_POLICIES
from sagellm_scheduler.queueing.priority import ByPriority
from sagellm_scheduler.queueing.queue import RequestQueue
from sagellm_scheduler.queueing.slo_aware import SloAware
from sagellm_scheduler.routing.load_balanced import LoadBalanced
from support.scheduling import CRITICAL, HIGH, LOW, Driver, submit


class ShortestFirst:
    """A policy of a user's own: the shortest prompt first."""

    name = "shortest_first"

    def key(self, request: Request) -> tuple[float, ...]:
        return (request.submit.prompt_tokens,)


def waiting(seq: int, arrival: float = 0.0, priority: Priority = Priority.NORMAL) -> Request:
    return Request(submit(f"r{seq}", priority=priority), arrival, arrival, seq)


def one_by_one(driver: Driver, count: int) -> list[str]:
    """Free the single slot of `e1` again and again; return the ids that are assigned meanwhile."""
    before = len(driver.order)
    for _ in range(count):
        number = driver.assignments[-1].number if driver.assignments else 0
        driver.report("e1", running=0, last_assignment=number)
    return driver.order[before:]


def full_driver(**settings: object) -> Driver:
    """A leader whose only engine has a single slot, which is taken."""
    driver = Driver.leading(**settings)  # type: ignore[arg-type]  # passed on as they are
    driver.engine("e1", max_num_seqs=1)
    driver.report("e1", running=1)
    return driver


@pytest.mark.acceptance(83)
def test_fifo_goes_by_acceptance() -> None:
    """Requests go in the order in which gateways accepted them; a continued stream keeps its old place."""
    driver = full_driver()
    for number in range(3):
        driver.now += 1
        driver.submit(f"r{number}")
    driver.now += 1
    driver.submit("stream", epoch=1, age_ms=60_000)
    assert one_by_one(driver, 4) == ["stream", "r0", "r1", "r2"]


@pytest.mark.acceptance(84)
def test_priority_goes_by_urgency_then_by_acceptance() -> None:
    """A more urgent class goes first, and within a class the earlier request."""
    driver = full_driver(queue="priority")
    for name, priority in (("low", LOW), ("n1", 2), ("n2", 2), ("high", HIGH), ("critical", CRITICAL)):
        driver.now += 0.1
        driver.submit(name, priority=priority)
    assert one_by_one(driver, 5) == ["critical", "high", "n1", "n2", "low"]


def test_a_sorting_policy_dispatches_the_request_it_chose() -> None:
    """With a policy that reorders, each assignment names the request whose prompt was placed; none is mixed up."""
    driver = full_driver(queue=ShortestFirst())
    for number, length in enumerate((300, 100, 200)):
        driver.submit(f"r{number}", prompt_tokens=length)
    assert one_by_one(driver, 3) == ["r1", "r2", "r0"]
    lengths = {publish.record.request_id: publish.record.prompt_tokens for publish in driver.records}
    assert lengths == {"r0": 300, "r1": 100, "r2": 200}


def test_surplus_requests_stay_queued() -> None:
    """More requests than engines have room for wait; nobody vanishes."""
    driver = Driver.leading(queue="priority")
    driver.engine("e1", max_num_seqs=2)
    for number in range(50):
        driver.submit(f"r{number}", priority=number % 4)
    assert len(driver.assignments) == 2
    assert len(driver.core.dispatcher.queues) == 48
    done: set[str] = set()
    while len(done) < 50:
        for assignment in driver.assignments:
            if assignment.request_id not in done:
                done.add(assignment.request_id)
                driver.end(assignment.request_id)
        driver.report("e1", running=0, last_assignment=driver.assignments[-1].number)
    assert len(driver.order) == len(set(driver.order)) == 50


@pytest.mark.acceptance(88)
def test_a_policy_object_and_a_dotted_name_plug_in() -> None:
    """A policy of one's own is taken as an object, or by `package.module:Class` where that is allowed."""
    own = ShortestFirst()
    assert QUEUE_POLICIES.make(own) is own
    made = QUEUE_POLICIES.make("sagellm_scheduler.queueing.priority:ByPriority", dotted=True)
    assert made.name == "priority"


@pytest.mark.parametrize("name", ["quickest", "", "FIFO", "os:getcwd", "no.such.module:Class"])
def test_an_unknown_policy_name_is_an_error_that_lists_the_known_ones(name: str) -> None:
    """No name is silently replaced by another policy."""
    with pytest.raises(
        InvalidArgument, match="known are adaptive, cost_optimized, fair, fifo, hybrid, priority, slo_aware"
    ):
        QUEUE_POLICIES.make(name)


@pytest.mark.parametrize("name", ["no.such.module:Class", "math:nothing", "math:pi"])
def test_a_dotted_name_that_cannot_be_loaded_is_an_error(name: str) -> None:
    """A dotted name without a usable class behind it says what is wrong with it."""
    with pytest.raises(InvalidArgument, match="cannot be loaded"):
        QUEUE_POLICIES.make(name, dotted=True)


def test_a_live_change_moves_the_queue_over_and_loses_none() -> None:
    """Requests queued under one policy go in the order of the next one, each exactly once."""
    driver = full_driver()
    for number in range(20):
        driver.submit(f"r{number}", priority=3 - number % 4)
    driver.feed(events.PolicyChanged(ByPriority(), LoadBalanced()))
    order = one_by_one(driver, 20)
    assert sorted(order) == sorted(f"r{number}" for number in range(20))
    assert [int(name[1:]) % 4 for name in order] == [3] * 5 + [2] * 5 + [1] * 5 + [0] * 5
    assert driver.records[-1].record.decisions[-1].queue_policy == "priority"


def test_removal_is_cheap() -> None:
    """A hundred thousand cancellations leave nothing behind."""
    queue = RequestQueue(Fifo())
    keep = waiting(0)
    queue.push(keep)
    for number in range(1, 100_000):
        request = waiting(number, arrival=1.0)
        queue.push(request)
        assert queue.remove(request)
    assert queue.peek() is keep
    assert list(queue) == [keep]


class NoOrder:
    """A policy of a user's own whose keys cannot be compared."""

    name = "no_order"

    def key(self, request: Request) -> tuple[float, ...]:
        return (float("nan") if request.seq % 2 else -request.arrival,)


def test_a_policy_whose_keys_have_no_order_loses_nobody() -> None:
    """Each request is taken out itself, not another that lies where it should."""
    queue = RequestQueue(NoOrder())
    requests = [waiting(number, arrival=float(number % 5)) for number in range(30)]
    for request in requests:
        queue.push(request)
    for request in requests[::-2]:
        assert queue.remove(request)
    assert sorted(request.seq for request in queue) == list(range(0, 30, 2))


arrivals = st.lists(
    st.tuples(st.floats(0, 200, allow_nan=False), st.sampled_from(list(Priority))), min_size=1, max_size=60
)


@given(arrivals)
@settings(max_examples=200, deadline=None)
def test_starvation_is_bounded(items: list[tuple[float, Priority]]) -> None:
    """Nobody is overtaken by a request that arrived more than 10 s per class between them later."""
    queue = RequestQueue(ByPriority(aging_s=10))
    for seq, (arrival, priority) in enumerate(items):
        queue.push(waiting(seq, arrival, priority))
    order = drained(queue)
    for first, second in itertools.combinations(order, 2):
        classes = max(0, second.submit.priority - first.submit.priority)
        assert first.arrival <= second.arrival + 10 * classes + 1e-6


@given(arrivals)
@settings(max_examples=100, deadline=None)
def test_urgency_wins_among_requests_of_one_aging_period(items: list[tuple[float, Priority]]) -> None:
    """Among requests that arrive within 10 s of each other a more urgent one is never behind a less urgent one."""
    queue = RequestQueue(ByPriority(aging_s=10))
    for seq, (arrival, priority) in enumerate(items):
        queue.push(waiting(seq, arrival, priority))
    for first, second in itertools.combinations(drained(queue), 2):
        if abs(first.arrival - second.arrival) < 9.999:
            assert first.submit.priority <= second.submit.priority


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=200))
@settings(max_examples=100, deadline=None)
def test_the_queue_is_a_sorted_list_that_is_only_faster(steps: list[tuple[int, bool]]) -> None:
    """Pushes and removals in any order leave the same order as sorting what is left."""
    queue, left = RequestQueue(Fifo()), {}
    for seq, (number, removes) in enumerate(steps):
        name = f"r{number}"
        if removes and name in left:
            assert queue.remove(left.pop(name))
        elif name not in left:
            left[name] = Request(submit(name), float(number % 7), 0.0, seq)
            queue.push(left[name])
        assert len(queue) == len(left)
    assert drained(queue) == sorted(left.values(), key=lambda request: (request.arrival, request.seq))


def drained(queue: RequestQueue) -> list[Request]:
    """Take everything out in order."""
    order = []
    while (request := queue.peek()) is not None:
        assert queue.remove(request)
        order.append(request)
    return order


def timed(seq: int, arrival: float, ttft_ms: float) -> Request:
    return Request(submit(f"r{seq}"), arrival, arrival, seq, slo=Slo(ttft_ms=ttft_ms))


def test_who_is_late_goes_behind_those_that_are_not_and_is_not_lost() -> None:
    """By slack r0 comes first; late, it comes after all that came within half a minute of it, and before others."""
    queue = RequestQueue(SloAware())
    first = timed(0, 0.0, 500.0)
    later = [timed(1, 0.1, 500.0), timed(2, 29.0, 500.0), timed(3, 32.0, 500.0)]
    for request in (first, *later):
        queue.push(request)
    assert queue.peek() is first
    queue.give_way(first)
    order = []
    while (request := queue.peek()) is not None:
        order.append(request.request_id)
        queue.serve(request)
    assert order == ["r1", "r2", "r0", "r3"]


def test_all_that_waits_counts_as_work_before_others() -> None:
    """Whoever has given way, too: else more would be admitted in its place than engines can do."""
    queue = RequestQueue(SloAware())
    late, other, unknown = timed(0, 0.0, 500.0), timed(1, 0.1, 500.0), timed(2, 0.2, 500.0)
    for request, seconds in ((late, 0.3), (other, 0.04)):
        request.prospect = Prospect(wait_s=0.0, ttft_s=seconds, alone_s=seconds, total_s=1.0, cost=0.0)
    for request in (late, other, unknown):
        queue.push(request)
    queue.give_way(late)
    assert queue.seconds == pytest.approx(0.34)
    queue.remove(other)
    assert queue.seconds == pytest.approx(0.3)
    assert [request.request_id for request in queue] == ["r2", "r0"]


def test_a_queue_that_is_ordered_anew_holds_everybody_once() -> None:
    """After some have given way, another policy orders all; none comes twice, none is missing."""
    queue = RequestQueue(SloAware())
    requests = [timed(number, 0.1 * number, 500.0) for number in range(6)]
    for request in requests:
        queue.push(request)
    queue.give_way(requests[0])
    queue.give_way(requests[3])
    queue.reorder(Fifo())
    order = []
    while (head := queue.peek()) is not None:
        order.append(head.seq)
        queue.serve(head)
    assert order == [0, 1, 2, 3, 4, 5]
