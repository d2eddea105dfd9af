"""What a change of leadership does to the core, and the lease in virtual time."""

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm_common.contracts.policy import LEADER_TTL_S
from sagellm_common.contracts.scheduling import Assignment, OpenRequest
from sagellm_scheduler.core import events
from sagellm_scheduler.leadership.lease import (
    Answered,
    Create,
    Due,
    Failed,
    Gained,
    LeaseAction,
    LeaseConfig,
    LeaseCore,
    Lost,
    Update,
)
from support.scheduling import EPOCH, Driver, submit

NEWER = (EPOCH[0], EPOCH[1] + 7)


def old_assignment(request_id: str, number: int, engine_id: str = "e1") -> Assignment:
    return Assignment(
        request_id=request_id, epoch=0, engine_id=engine_id, incarnation="i1", leader_epoch=EPOCH, number=number
    )


def test_a_standby_rejects_submits_as_unavailable() -> None:
    """A scheduler that does not lead decides nothing and says so."""
    driver = Driver.standby()
    driver.engine("e1")
    reply = driver.submit("r1")
    assert reply.error is not None
    assert reply.error["code"] == "unavailable"
    assert "not the leader" in reply.error["message"]
    assert driver.assignments == []


def test_a_leader_that_loses_its_lease_forgets_its_requests() -> None:
    """After the loss nothing is assigned any more, and nothing stays reserved."""
    driver = Driver.leading()
    driver.engine("e1", max_num_seqs=1)
    driver.submit("r1")
    driver.submit("r2")
    driver.feed(events.LeadershipLost())
    driver.report("e1", running=0)
    driver.wait(1, alive=("e1",))
    assert driver.order == ["r1"]
    assert driver.reserved() == 0


def test_a_new_leader_asks_every_gateway_and_again_until_it_is_told() -> None:
    """Gateways known by their heartbeats are asked at once, and once a second until they answer."""
    driver = Driver.standby(gateway_timeout_s=60)
    driver.heartbeat("g1")
    driver.heartbeat("g2")
    driver.feed(events.LeadershipGained(NEWER))
    assert driver.asked == ["g1", "g2"]
    driver.feed(events.OpenLearnt("g1", (), driver.now))
    driver.wait(2.5)
    assert driver.asked == ["g1", "g2", "g2", "g2"]
    driver.feed(events.OpenLearnt("g2", (), driver.now))
    driver.wait(5)
    assert len(driver.asked) == 4


def test_a_new_leader_counts_what_the_old_one_assigned() -> None:
    """An assignment that the engine has not reported yet is load; one that it has seen is in its gauges already."""
    driver = Driver.standby()
    driver.engine("e1", max_num_seqs=2)
    driver.report("e1", running=1, leader_epoch=EPOCH, last_assignment=4)
    driver.feed(events.LeadershipGained(NEWER))
    opened = (
        OpenRequest(submit=submit("seen"), assignment=old_assignment("seen", 4)),
        OpenRequest(submit=submit("unseen"), assignment=old_assignment("unseen", 5)),
        OpenRequest(submit=submit("queued")),
    )
    driver.feed(events.OpenLearnt("g1", opened, driver.now))
    assert driver.order == []
    driver.end("unseen")
    assert driver.order == ["queued"]
    assert driver.assignments[0].leader_epoch == NEWER
    assert driver.assignments[0].number == 1


def test_what_is_learnt_twice_is_one_request() -> None:
    """A request that is submitted again and then told by its gateway too is assigned once."""
    driver = Driver.standby()
    driver.engine("e1")
    driver.feed(events.LeadershipGained(NEWER))
    driver.submit("r1")
    driver.feed(events.OpenLearnt("g1", (OpenRequest(submit=submit("r1")),), driver.now))
    assert driver.order == ["r1"]


def test_what_has_ended_is_not_learnt() -> None:
    """A list of open requests that an end event has overtaken opens nothing."""
    driver = Driver.standby()
    driver.engine("e1")
    driver.feed(events.LeadershipGained(NEWER))
    driver.end("r1")
    driver.feed(events.OpenLearnt("g1", (OpenRequest(submit=submit("r1")),), driver.now))
    assert driver.order == []


def test_a_waiting_request_that_was_assigned_elsewhere_is_not_assigned_again() -> None:
    """A submit repeated at a new leader waits; when its gateway tells its old assignment it leaves the queue."""
    driver = Driver.standby()
    driver.engine("e1", max_num_seqs=1)
    driver.report("e1", running=1)
    driver.feed(events.LeadershipGained(NEWER))
    driver.submit("r1")
    driver.feed(events.OpenLearnt("g1", (OpenRequest(submit=submit("r1"), assignment=old_assignment("r1", 1)),), 0))
    driver.report("e1", running=0, leader_epoch=NEWER)
    assert driver.order == []
    assert len(driver.core.dispatcher.queues) == 0
    driver.submit("r1")
    assert driver.assignments == [old_assignment("r1", 1)]
    assert driver.reserved() == 1


def test_a_learnt_request_keeps_the_old_leaders_decisions() -> None:
    """The outcome of a request whose decision another leader recorded is merged with what the stream holds."""
    driver = Driver.standby()
    driver.engine("e1")
    driver.feed(events.LeadershipGained(NEWER))
    opened = (OpenRequest(submit=submit("r1"), assignment=old_assignment("r1", 1)),)
    driver.feed(events.OpenLearnt("g1", opened, driver.now))
    driver.end("r1")
    assert driver.records[-1].merge
    assert driver.records[-1].record.outcome == "finished"


def test_a_new_leader_announces_engines_that_were_lost_before() -> None:
    """The old leader may have died before it could tell: gateways hear of lost engines again."""
    driver = Driver.standby()
    driver.heartbeat("g1")
    driver.engine("e1")
    driver.wait(2.1)
    assert driver.notices == []
    driver.feed(events.LeadershipGained(NEWER))
    assert [notice.engine_id for notice in driver.notices] == ["e1"]


# the lease


class LeaseBucket:
    """The bucket of the lease in virtual time: one entry that is gone `ttl_s` after its last write."""

    def __init__(self, ttl_s: float = LEADER_TTL_S) -> None:
        self.ttl_s, self.revision, self.written_at, self.last = ttl_s, 0, -1e9, 0

    def call(self, action: Create | Update, now: float) -> int | None:
        is_there = now - self.written_at < self.ttl_s
        if isinstance(action, Create) and is_there:
            return None
        if isinstance(action, Update) and not (is_there and action.revision == self.last):
            return None
        self.revision += 1
        self.last, self.written_at = self.revision, now
        return self.revision


class Holder:
    """A lease core on that bucket; `fails` makes its calls fail, `delay_s` makes answers come late."""

    def __init__(self, bucket: LeaseBucket) -> None:
        self.bucket, self.core = bucket, LeaseCore(LeaseConfig())
        self.fails, self.delay_s = False, 0.0
        self.epochs: list[tuple[int, int]] = []
        self.told_lost = 0
        self._answers: deque[tuple[float, Answered | Failed]] = deque()

    def step(self, now: float) -> None:
        while self._answers and self._answers[0][0] <= now:
            self._take(self.core.handle(self._answers.popleft()[1], now), now)
        self._take(self.core.handle(Due(), now), now)

    def _take(self, actions: list[LeaseAction], now: float) -> None:
        for action in actions:
            if isinstance(action, Gained):
                self.epochs.append(action.leader_epoch)
            elif isinstance(action, Lost):
                self.told_lost += 1
            else:
                answer = Failed() if self.fails else Answered(self.bucket.call(action, now), 1000)
                self._answers.append((now + self.delay_s, answer))


def run(holders: list[Holder], start: float, seconds: float) -> float:
    """Step all holders every 50 ms and check that never two lead; return the time at the end."""
    now = start
    while now < start + seconds:
        now += 0.05
        for holder in holders:
            holder.step(now)
        assert sum(holder.core.is_valid(now) for holder in holders) <= 1
    return now


def test_one_of_two_leads_and_keeps_leading() -> None:
    """The first to create the lease leads; renewals keep it for as long as they succeed."""
    bucket = LeaseBucket()
    first, second = Holder(bucket), Holder(bucket)
    run([first, second], 100.0, 30.0)
    assert (len(first.epochs), len(second.epochs)) == (1, 0)
    assert first.told_lost == 0


def test_the_standby_takes_over_within_three_seconds_under_a_newer_epoch() -> None:
    """When the leader is gone, the standby leads within the time to live and one try, with a greater epoch."""
    bucket = LeaseBucket()
    first, second = Holder(bucket), Holder(bucket)
    now = run([first, second], 100.0, 5.0)
    run([second], now, 2.5)
    assert second.epochs
    assert second.epochs[0] > first.epochs[0]


def test_a_leader_that_cannot_renew_stops_before_another_can_start() -> None:
    """Cut off from the bucket, the leader stops by its own clock before its lease runs out."""
    bucket = LeaseBucket()
    first, second = Holder(bucket), Holder(bucket)
    now = run([first, second], 100.0, 5.0)
    first.fails = True
    now = run([first, second], now, 1.6)
    assert not first.core.is_valid(now)
    assert first.told_lost == 1
    run([first, second], now, 1.0)
    assert len(second.epochs) == 1


def test_an_answer_that_comes_too_late_gives_no_leadership() -> None:
    """A lease whose creation was answered after its safe time is not acted on."""
    holder = Holder(LeaseBucket())
    holder.delay_s = 1.8
    run([holder], 100.0, 1.9)
    assert holder.epochs == []


def test_a_bucket_made_anew_gives_a_newer_epoch() -> None:
    """Revisions start again in a new stream; its creation time keeps the epochs in order."""
    first, second = LeaseCore(LeaseConfig()), LeaseCore(LeaseConfig())
    first.handle(Due(), 0.0)
    second.handle(Due(), 50.0)
    (old,) = first.handle(Answered(revision=900, created_ns=1000), 0.0)
    (new,) = second.handle(Answered(revision=1, created_ns=2000), 50.0)
    assert isinstance(old, Gained)
    assert isinstance(new, Gained)
    assert new.leader_epoch > old.leader_epoch


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["cut", "heal", "slow", "quick"]), st.floats(0.05, 3.0)),
        max_size=12,
    )
)
@settings(max_examples=100, deadline=None)
def test_there_is_never_more_than_one_leader(faults: list[tuple[int, str, float]]) -> None:
    """Whatever calls fail or are slow, never do two schedulers lead, epochs grow, and in the end one leads."""
    bucket = LeaseBucket()
    holders = [Holder(bucket) for _ in range(3)]
    now = 100.0
    for number, fault, seconds in faults:
        holder = holders[number]
        holder.fails = fault == "cut" or (holder.fails and fault != "heal")
        holder.delay_s = 0.7 if fault == "slow" else 0.0
        now = run(holders, now, seconds)
    for holder in holders:
        holder.fails, holder.delay_s = False, 0.0
    now = run(holders, now, 6.0)
    assert sum(holder.core.is_valid(now) for holder in holders) == 1
    epochs = sorted(epoch for holder in holders for epoch in holder.epochs)
    assert len(epochs) == len(set(epochs))
