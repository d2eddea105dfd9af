"""The queue policies that weigh: slack, cost, fair shares, load; and that none of them starves anybody."""

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm_common.contracts.slo import Priority, Slo
from sagellm_scheduler.core import events
from sagellm_scheduler.core.queues import Queues
from sagellm_scheduler.core.requests import Prospect, Request
from sagellm_scheduler.queueing.adaptive import Adaptive
from sagellm_scheduler.queueing.fair import Fair
from sagellm_scheduler.queueing.policy import QUEUE_POLICIES
from sagellm_scheduler.queueing.queue import RequestQueue
from sagellm_scheduler.routing.load_balanced import LoadBalanced
from support.scheduling import Driver, submit


def waiting(seq: int, *, arrival: float = 0.0, needs_s: float = 0.1, cost: float = 1e-3, **fields: object) -> Request:
    """A request that would take `needs_s` to its first token."""
    described = submit(f"r{seq}", **fields)
    request = Request(described, arrival, arrival, seq, slo=described.slo)
    request.prospect = Prospect(wait_s=0.0, ttft_s=needs_s, alone_s=needs_s, total_s=10 * needs_s, cost=cost)
    return request


def order(policy: str, *requests: Request) -> list[str]:
    """Request ids in the order in which a queue hands them out."""
    queue = RequestQueue(QUEUE_POLICIES.make(policy))
    for request in requests:
        queue.push(request)
    return [request.request_id for request in served(queue)]


def served(queue: RequestQueue) -> Iterator[Request]:
    """Serve until the queue is empty."""
    while (request := queue.peek()) is not None:
        queue.serve(request)
        yield request


@pytest.mark.acceptance(85)
def test_slo_aware_goes_by_what_can_wait_least() -> None:
    """What counts is when a request must start, not when it must be done: the long prompt with more time goes first."""
    relaxed = waiting(1, slo=Slo(ttft_ms=5000))
    tight = waiting(2, slo=Slo(ttft_ms=1000))
    long_prompt = waiting(3, slo=Slo(ttft_ms=3000), needs_s=2.5)
    unstated = waiting(4)
    assert order("slo_aware", relaxed, tight, long_prompt, unstated) == ["r3", "r2", "r1", "r4"]


@pytest.mark.acceptance(85)
def test_slo_aware_counts_a_deadline_for_the_whole_answer() -> None:
    """A deadline for the last token leaves less slack than the same limit for the first."""
    first = waiting(1, slo=Slo(ttft_ms=4000), needs_s=0.3)
    whole = waiting(2, slo=Slo(deadline_ms=4000), needs_s=0.3)
    assert order("slo_aware", first, whole) == ["r2", "r1"]


def test_slo_aware_takes_the_deployments_slo_where_none_is_stated() -> None:
    """A default TTFT of 0.5 s makes a request that states none more urgent than one that states 2 s."""
    driver = Driver.leading(queue="slo_aware", default_slo=Slo(ttft_ms=500))
    driver.engine("e1", max_num_seqs=1)
    driver.report("e1", running=1)
    driver.submit("states", slo=Slo(ttft_ms=2000))
    driver.submit("default")
    driver.report("e1", running=0)
    assert driver.order == ["default"]


@pytest.mark.acceptance(86)
def test_cost_optimized_serves_the_cheap_first() -> None:
    """Of requests that came together the cheapest goes first; a dear one is not overtaken for ever."""
    cheap, dear = waiting(1, cost=1e-4), waiting(2, cost=1e-1)
    late = waiting(3, cost=1e-4, arrival=31.0)
    assert order("cost_optimized", dear, cheap, late) == ["r1", "r2", "r3"]


def test_fair_gives_everybody_the_same_tokens() -> None:
    """One user floods the queue with 100 requests; another's ten, that come later, are served one to one with them."""
    queue = RequestQueue(Fair())
    for number in range(100):
        queue.push(waiting(number, user="flood"))
    for number in range(100, 110):
        queue.push(waiting(number, user="modest"))
    first = [request.submit.user for request, _ in zip(served(queue), range(20), strict=False)]
    assert Counter(first) == {"flood": 10, "modest": 10}


def test_fair_counts_tokens_not_requests() -> None:
    """Who asks for ten times as many tokens a request is served a tenth as often."""
    queue = RequestQueue(Fair())
    for number in range(100):
        queue.push(waiting(number, user="large", prompt_tokens=1000, max_tokens=0))
        queue.push(waiting(1000 + number, user="small", prompt_tokens=100, max_tokens=0))
    first = Counter(request.submit.user for request, _ in zip(served(queue), range(44), strict=False))
    assert first["small"] == pytest.approx(40, abs=2)


def test_fair_does_not_starve_behind_ever_new_users() -> None:
    """A user's twentieth request is served though a new user comes with every request that is served."""
    queue = RequestQueue(Fair())
    for number in range(20):
        queue.push(waiting(number, user="patient"))
    for number in range(100, 2000):
        queue.push(waiting(number, user=f"new-{number}"))
        request = queue.peek()
        assert request is not None
        queue.serve(request)
        if request.request_id == "r19":
            return
    pytest.fail("the twentieth request has waited for 1,900 others")


@pytest.mark.acceptance(87)
def test_adaptive_changes_its_order_with_the_load_and_says_why() -> None:
    """In order of arrival at first; by slack once the queue is seconds long; the record says which and why."""
    driver = Driver.leading(queue="adaptive", admission_slack=None)
    driver.engine("e1", max_num_seqs=1)
    driver.submit("r0")
    assert driver.records[-1].record.decisions[0].queue_policy.startswith("adaptive: fifo, ")
    driver.report("e1", running=1, last_assignment=1)
    for number in range(1, 9):
        driver.submit(f"r{number}", slo=Slo(ttft_ms=9_500 - 1000 * number))
    driver.wait(1.0, alive=("e1",))
    driver.report("e1", running=0, last_assignment=1)
    assert driver.order[-1] == "r8"
    assert driver.records[-1].record.decisions[0].queue_policy.startswith("adaptive: slo_aware, for 8 requests")


def test_adaptive_keeps_an_order_for_a_while() -> None:
    """A load that goes up and down does not reorder the queue with every tick."""
    policy = Adaptive()
    changes = sum(policy.review(10, wait_s, tick / 20) for tick, wait_s in enumerate([0.1, 3.0, 20.0] * 200))
    assert 1 <= changes <= 7


FEATURES = st.fixed_dictionaries(
    {
        "needs_s": st.floats(0.0, 20.0),
        "cost": st.floats(0.0, 10.0),
        "priority": st.sampled_from(list(Priority)),
        "user": st.sampled_from(["a", "b", "c", None]),
        "slo": st.builds(Slo, ttft_ms=st.none() | st.floats(1.0, 1e6), deadline_ms=st.none() | st.floats(1.0, 1e6)),
        "prompt_tokens": st.integers(1, 5000),
    }
)


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("policy", QUEUE_POLICIES.known())
@given(
    victim=FEATURES,
    others=st.lists(FEATURES, min_size=1, max_size=12),
    waits_s=st.lists(st.sampled_from([0.1, 3.0, 20.0]), min_size=1, max_size=8),
)
def test_no_policy_starves_anybody(
    policy: str, victim: dict[str, object], others: list[dict[str, object]], waits_s: list[float]
) -> None:
    """Whatever a request is, and whatever comes, one a second while one a second is served, whichever order the load
    suggests and whoever gives way for others: it is served in the end.

    Within 150 s for the policies that add a bounded delay to the arrival (hybrid: 30 + 30 + 15 s); with fair shares,
    to which `adaptive` may turn, before its user's share of all that the others ask for is spent.
    """
    queues = Queues(QUEUE_POLICIES.make(policy))
    mine = waiting(0, **victim)  # type: ignore[arg-type] # the fields of a submit, and figures
    queues.put(waiting(1, arrival=0.0, **others[0]))  # type: ignore[arg-type]
    queues.put(mine)
    (model,) = queues.models()
    for second in range(1, 400):
        queues.put(waiting(second + 1, arrival=float(second), **others[second % len(others)]))  # type: ignore[arg-type]
        queues.review(waits_s[second // 5 % len(waits_s)], float(second))
        if queues.minds_time(model):
            queues.keep_in_time(model, float(second), 1.0)
        head = queues.head(model)
        assert head is not None
        while queues.give_way(head):
            head = queues.head(model)
            assert head is not None
        queues.serve(head)
        if head is mine:
            break
    else:
        pytest.fail(f"{policy} let a request wait for 400 others")
    if policy not in ("fair", "adaptive"):
        assert second <= 150


def test_a_change_of_policy_loses_nobody() -> None:
    """Through every policy in turn, with requests of all sorts queued, each is placed once."""
    driver = Driver.leading()
    driver.engine("e1", max_num_seqs=1)
    driver.submit("first")
    driver.report("e1", running=1, last_assignment=1)
    for number in range(40):
        driver.submit(f"r{number}", user=f"u{number % 3}", priority=number % 4, slo=Slo(ttft_ms=1e6 / (number + 1)))
    for turn in range(40):
        policy = QUEUE_POLICIES.make(QUEUE_POLICIES.known()[turn % len(QUEUE_POLICIES.known())])
        driver.feed(events.PolicyChanged(policy, LoadBalanced()))
        driver.report("e1", running=0, last_assignment=driver.assignments[-1].number)
    assert sorted(driver.order) == sorted(["first", *(f"r{number}" for number in range(40))])
