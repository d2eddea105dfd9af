"""Random schedules of everything that can happen: the invariants of the scheduler hold in all of them."""

from collections import Counter

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sagellm_scheduler.core import events
from sagellm_scheduler.core.requests import State
from sagellm_scheduler.queueing.policy import QUEUE_POLICIES
from sagellm_scheduler.routing.router import ROUTERS
from sagellm_scheduler.separation.policy import SEPARATION_POLICIES
from support.scheduling import EPOCH, Driver

requests = st.integers(0, 11)
ROLES = {"e1": "hybrid", "e2": "prefill", "e3": "decode"}
engines = st.sampled_from(list(ROLES))


class Schedules(RuleBasedStateMachine):
    """Submits, duplicates, epochs, reports, losses, cancellations, policy changes and time, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver.leading(max_queue=8, max_queue_time_s=5, no_engine_timeout_s=2, gateway_timeout_s=1e9)
        self.driver.heartbeat("g1")
        self.epochs: dict[str, int] = {}
        self.incarnations: Counter[str] = Counter()
        self.rejected: set[tuple[str, int]] = set()
        self.ended: set[str] = set()
        for name in ROLES:
            self.restart(name)

    @rule(number=requests, step=st.integers(0, 1), priority=st.integers(0, 3), length=st.integers(1, 1500))
    def submit(self, number: int, step: int, priority: int, length: int) -> None:
        name = f"r{number}"
        epoch = self.epochs.get(name, 0) + (step if name in self.epochs else 0)
        self.epochs[name] = epoch
        reply = self.driver.submit(name, epoch=epoch, priority=priority, prompt_tokens=length, user=name)
        if reply.status == "rejected":
            self.rejected.add((name, epoch))

    @rule(number=requests)
    def submit_old_epoch(self, number: int) -> None:
        name = f"r{number}"
        if self.epochs.get(name, 0) > 0:
            before = len(self.driver.assignments)
            self.driver.submit(name, epoch=0)
            known = self.driver.core.dispatcher.book.get(name)
            assert known is None or known.epoch == self.epochs[name] or known.epoch == 0
            if known is not None and known.epoch > 0:
                assert len(self.driver.assignments) == before
            elif known is not None:
                self.epochs[name] = 0

    @rule(number=requests, phase=st.sampled_from(["finished", "cancelled", "failed"]))
    def end(self, number: int, phase: str) -> None:
        name = f"r{number}"
        if name in self.epochs:
            self.driver.end(name, phase, epoch=self.epochs[name], completion_tokens=5)
            self.ended.add(name)

    @rule(name=engines, running=st.integers(0, 3), seen=st.booleans(), state=st.sampled_from(["ready", "draining"]))
    def report(self, name: str, running: int, seen: bool, state: str) -> None:
        engine = self.driver.core.fleet.get(name)
        number = engine.next_number - 1 if engine is not None and seen else 0
        self.driver.report(name, running=running, leader_epoch=EPOCH, last_assignment=number, state=state)

    @rule(name=engines)
    def restart(self, name: str) -> None:
        self.incarnations[name] += 1
        incarnation = f"i{self.incarnations[name]}"
        self.driver.engine(
            name, incarnation=incarnation, max_num_seqs=2, num_pages=128, page_size=16, handoff="x", role=ROLES[name]
        )

    @rule(name=engines)
    def unregister(self, name: str) -> None:
        self.driver.feed(events.EngineGone(name))

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0]), alive=st.sets(engines))
    def wait(self, seconds: float, alive: set[str]) -> None:
        self.driver.wait(seconds, alive=tuple(sorted(alive)), step=0.1)

    @rule(
        queue=st.sampled_from(QUEUE_POLICIES.known()),
        router=st.sampled_from(ROUTERS.known()),
        separation=st.sampled_from(SEPARATION_POLICIES.known()),
    )
    def change_policy(self, queue: str, router: str, separation: str) -> None:
        policies = QUEUE_POLICIES.make(queue), ROUTERS.make(router), SEPARATION_POLICIES.make(separation)
        self.driver.feed(events.PolicyChanged(*policies))

    @rule()
    def lose_and_regain_the_bus(self) -> None:
        self.driver.feed(events.BusDown())
        self.driver.feed(events.BusUp())

    @invariant()
    def one_assignment_per_epoch(self) -> None:
        made: dict[tuple[str, int], set[tuple[str, str, int]]] = {}
        for a in self.driver.assignments:
            made.setdefault((a.request_id, a.epoch), set()).add((a.engine_id, a.incarnation, a.number))
        late = {(n.request_id, n.epoch) for n in self.driver.notices if n.kind == "rejected"}
        assert all(len(where) == 1 for where in made.values())
        assert not late & set(made)

    @invariant()
    def numbers_are_unique_per_engine(self) -> None:
        first = {(a.request_id, a.epoch): a for a in self.driver.assignments}.values()
        numbers = [(part.engine_id, part.incarnation, part.number) for a in first for part in (a, a.prefill) if part]
        assert len(numbers) == len(set(numbers))

    @invariant()
    def every_request_is_in_one_place(self) -> None:
        dispatcher = self.driver.core.dispatcher
        waiting = Counter(request.request_id for request in dispatcher.queues)
        for request in dispatcher.book:
            is_waiting = request.state in (State.QUEUED, State.PARKED)
            assert waiting[request.request_id] == int(is_waiting)
            assert (request.assignment is not None) == (request.state is State.ASSIGNED)
        assert sum(waiting.values()) == len(dispatcher.queues)

    @invariant()
    def reservations_add_up(self) -> None:
        book = self.driver.core.dispatcher.book
        for engine in self.driver.core.fleet:
            held = list(engine.reservations._in_flight.values())
            assert engine.reservations.seqs == sum(r.seqs for r in held)
            assert engine.reservations.tokens == sum(r.tokens for r in held)
            unseen = list(engine.reservations._unseen.values())
            assert engine.reservations.unseen_seqs == sum(r.seqs for r in unseen)
            assert engine.reservations.unseen_prompts == sum(r.prompts for r in unseen)
            leaving = [r for r in unseen if r.leaving]
            assert engine.reservations.unseen_leaving == sum(r.seqs for r in leaving)
            assert engine.reservations.unseen_leaving_tokens == sum(r.tokens for r in leaving)
            assert engine.reservations.unseen_leaving_prefill == sum(r.prefill for r in leaving)
            assert all((known := book.get(r.request_id)) and known.state is State.ASSIGNED for r in held)

    @invariant()
    def columns_show_the_engines(self) -> None:
        columns = self.driver.core.fleet.columns
        for engine in self.driver.core.fleet:
            assert columns.seqs[engine.slot] == engine.seqs()
            assert columns.tokens[engine.slot] == engine.tokens()
            assert columns.ready[engine.slot] == engine.is_ready

    def teardown(self) -> None:
        """At rest every request is assigned, rejected or ended, and after all have ended nothing is reserved."""
        self.driver.wait(8, alive=("e1",))
        assert len(self.driver.core.dispatcher.queues) == 0
        done = {(a.request_id, a.epoch) for a in self.driver.assignments} | self.rejected
        done |= {(n.request_id, n.epoch) for n in self.driver.notices if n.request_id and n.epoch is not None}
        for name, epoch in self.epochs.items():
            assert name in self.ended or (name, epoch) in done
            self.driver.end(name, epoch=epoch)
        assert self.driver.reserved() == 0
        assert len(self.driver.core.dispatcher.book) == 0


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
