"""Both sides of a hand-off through random schedules of delay, loss, duplication, crash and late reads.

The memory is modelled: a page of P's holds what it was last written for, a read copies it at a moment of its own. What
D adopts must be what P computed for that request; nothing may land in a page that has been freed; every page comes
back; every request ends, in bounded time.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sagellm_engine.transfer import giving, taking
from sagellm_engine.transfer.giving import GivingSide, Release
from sagellm_engine.transfer.lease import Close, Closed, LeaseId, Offer, Ready, Taken
from sagellm_engine.transfer.taking import Adopt, FreePages, Read, Recompute, RecreateAgent, TakingSide

NUM_PAGES = 40
LONGEST_S = 3 * taking.PATIENCE_S + giving.TERM_S + 2.0
"""Offer, reads and close may each take the taker's patience."""


@dataclass
class Faults:
    """What goes wrong, as probabilities and seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_s: float = 0.01
    slow_read: float = 0.0
    failed_read: float = 0.0
    giver_dies_at: float | None = None
    taker_dies_at: float | None = None
    taker_cancels: float = 0.0
    failed_prefill: float = 0.0


@dataclass
class World:
    """One giving and one taking engine, their pages, and what is under way between them."""

    seed: int
    faults: Faults
    now: float = 0.0
    events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.count = 0
        self.giver, self.taker = GivingSide("p-1"), TakingSide()
        self.giver_lives = True
        self.giver_free, self.taker_free = list(range(NUM_PAGES)), list(range(NUM_PAGES))
        self.content: dict[int, object] = {}  # of P's pages
        self.copied: dict[int, object] = {}  # into D's pages
        self.reads: dict[int, Read] = {}
        self.ended: dict[tuple[str, int], str] = {}
        self.begun: dict[tuple[str, int], float] = {}
        self.leases: dict[LeaseId, tuple[int, ...]] = {}

    def at(self, time: float, call: Callable[..., None], *args: Any) -> None:
        self.count += 1
        heapq.heappush(self.events, (time, self.count, call, args))

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, _, call, args = heapq.heappop(self.events)
            call(*args)
        self.now = until

    # requests

    def hand_over(self, number: int) -> None:
        """A request comes to both engines."""
        request = (f"r{number}", 0)
        self.begun[request] = self.now
        self.deliver(self.expect, self.taker, request, lossy=False)
        num_pages = self.chance.randrange(1, 9)
        if not self.giver_lives or len(self.giver_free) < num_pages:
            return
        pages = tuple(self.giver_free.pop() for _ in range(num_pages))
        for page in pages:
            self.content[page] = "being computed"
        name, actions = self.giver.offer(*request, pages, "d", self.now)
        self.leases[name] = pages
        self.perform_giver(actions)
        self.at(self.now + self.chance.random() * 0.5, self.prefill, name, pages, 0)
        if self.chance.random() < self.faults.taker_cancels:
            self.at(self.now + self.chance.random() * 2.0, self.cancel, request)

    def expect(self, taker: TakingSide, request: tuple[str, int]) -> None:
        if taker is self.taker:  # a dispatch names the incarnation that it is for
            self.perform(taker.expect(request, self.now))

    def prefill(self, name: LeaseId, pages: tuple[int, ...], done: int) -> None:
        """Compute a chunk: pages are written first and announced then."""
        if not self.giver_lives:
            return
        if self.chance.random() < self.faults.failed_prefill:
            self.perform_giver(self.giver.give_up(name, self.now))
            return
        more = min(len(pages), done + self.chance.randrange(1, 4))
        for place in range(done, more):
            if self.leases.get(name) is not None:  # not released meanwhile
                self.content[pages[place]] = (name, place)
        first = ("first token", name) if more == len(pages) else None
        self.perform_giver(self.giver.progressed(name, more, first, self.now))
        if more < len(pages):
            self.at(self.now + self.chance.random() * 0.5, self.prefill, name, pages, more)

    def cancel(self, request: tuple[str, int]) -> None:
        self.ended.setdefault(request, "cancelled")
        self.perform(self.taker.cancel(request, self.now))

    def die(self) -> None:
        """P is gone, and what it had in memory is anything."""
        self.giver_lives = False
        self.content.clear()

    def restart_taker(self) -> None:
        """D is gone with its reads, and comes back without any memory; what P has sent reaches the new one."""
        for request in self.begun:
            self.ended.setdefault(request, "lost with its engine")
        self.taker, self.taker_free = TakingSide(), list(range(NUM_PAGES))
        self.reads.clear()
        self.copied.clear()

    # what the sides want done

    def perform_giver(self, actions: list[giving.GivingAction]) -> None:
        for action in actions:
            if isinstance(action, Release):
                assert self.leases.pop(action.lease) == action.pages, "pages are released once"
                for page in action.pages:
                    self.content[page] = "somebody else's"
                self.giver_free += action.pages
            else:
                self.deliver(self.to_taker, action.message)

    def perform(self, actions: list[taking.TakingAction]) -> None:
        for action in actions:
            match action:
                case Read():
                    self.begin_read(action)
                case FreePages():
                    self.free(action.pages)
                case Adopt():
                    self.adopt(action)
                case Recompute():
                    assert action.request not in self.ended or self.ended[action.request] == "cancelled"
                    self.ended.setdefault(action.request, "recomputed")
                case RecreateAgent():
                    self.at(self.now + 0.1, self.recreate, self.taker)
                case _:
                    self.deliver(self.to_giver, action.message)

    def begin_read(self, read: Read) -> None:
        self.reads[read.handle] = read
        slow = self.chance.random() < self.faults.slow_read
        self.at(self.now + self.chance.random() * (40.0 if slow else 0.3), self.land, self.taker, read.handle)

    def land(self, taker: TakingSide, handle: int) -> None:
        read = self.reads.pop(handle, None) if taker is self.taker else None
        if read is None:
            return  # ended with its agent, or its engine
        ok = self.giver_lives and self.chance.random() >= self.faults.failed_read
        for source, target in zip(read.sources, targets_of(read), strict=True):
            assert target not in self.taker_free, "nothing lands in a page that is free"
            self.copied[target] = self.content.get(source) if self.chance.random() < 0.9 or ok else "half"
        self.perform(self.taker.read_ended(handle, ok, self.now))

    def recreate(self, taker: TakingSide) -> None:
        if taker is self.taker:
            self.reads.clear()
            self.perform(taker.agent_recreated(self.now))

    def free(self, pages: tuple[int, ...]) -> None:
        assert not set(pages) & set(self.taker_free), "pages are freed once"
        under_way = {target for read in self.reads.values() for target in targets_of(read)}
        assert not under_way & set(pages), "no page is freed while a read may land in it"
        self.taker_free += pages

    def adopt(self, action: Adopt) -> None:
        assert action.request not in self.ended, "one end for a request"
        self.ended[action.request] = "adopted"
        _, name = action.first  # type: ignore[misc] # what `prefill` made
        assert (name.request_id, name.epoch) == action.request
        assert [self.copied[page] for page in action.pages] == [(name, place) for place in range(len(action.pages))]
        self.free(action.pages)  # the request has run to its end

    # messages

    def deliver(self, call: Callable[..., None], *args: Any, lossy: bool = True) -> None:
        faults = self.faults
        copies = 2 if self.chance.random() < faults.duplication else 1
        for _ in range(copies):
            if not lossy or self.chance.random() >= faults.loss:
                self.at(self.now + self.chance.random() * faults.delay_s, call, *args)

    def to_taker(self, message: Any) -> None:
        if not isinstance(message, Offer):
            self.perform(self.taker.take(message, self.now))
            return
        pages = None
        if self.taker.wants(message) and len(self.taker_free) >= len(message.pages):
            pages = tuple(self.taker_free.pop() for _ in message.pages)
        self.perform(self.taker.offered(message, "p", pages, self.now))

    def to_giver(self, message: Any) -> None:
        if self.giver_lives:
            self.perform_giver(self.giver.take(message, "d", self.now))

    def tick(self) -> None:
        self.perform(self.taker.tick(self.now))
        if self.giver_lives:
            self.perform_giver(self.giver.tick(self.now))
        self.check_pages()
        for request, began in self.begun.items():
            assert request in self.ended or self.now - began < LONGEST_S, f"{request} hangs"
        self.at(self.now + 0.1, self.tick)

    def check_pages(self) -> None:
        taker = self.taker
        assert len(self.taker_free) + taker.reserved_pages + taker.quarantined_pages == NUM_PAGES
        if self.giver_lives:
            assert len(self.giver_free) + self.giver.leased_pages == NUM_PAGES


def targets_of(read: Read) -> tuple[int, ...]:
    """Return the pages into which a read writes."""
    return read.pages[read.first : read.first + len(read.sources)]


def random_faults(chance: random.Random) -> Faults:
    return Faults(
        loss=chance.choice([0.0, 0.05, 0.3]),
        duplication=chance.choice([0.0, 0.2]),
        delay_s=chance.choice([0.01, 0.5, 3.0]),
        slow_read=chance.choice([0.0, 0.1]),
        failed_read=chance.choice([0.0, 0.1]),
        giver_dies_at=chance.choice([None, None, chance.uniform(0.0, 6.0)]),
        taker_dies_at=chance.choice([None, None, chance.uniform(0.0, 6.0)]),
        taker_cancels=chance.choice([0.0, 0.3]),
        failed_prefill=chance.choice([0.0, 0.1]),
    )


def simulated(seed: int, faults: Faults) -> World:
    """Ten requests within five seconds, and time for everything to end."""
    world = World(seed, faults)
    for number in range(10):
        world.at(world.chance.random() * 5.0, world.hand_over, number)
    if faults.giver_dies_at is not None:
        world.at(faults.giver_dies_at, world.die)
    if faults.taker_dies_at is not None:
        world.at(faults.taker_dies_at, world.restart_taker)
    world.tick()
    world.run(120.0)
    assert set(world.ended) == set(world.begun), "every request ends"
    assert world.taker.num_open == 0
    assert len(world.taker_free) == NUM_PAGES, "every page of D's comes back"
    assert not world.giver_lives or len(world.giver_free) == NUM_PAGES, "every page of P's comes back"
    return world


@pytest.mark.parametrize("block", range(10))
def test_random_schedules(block: int) -> None:
    """Two thousand schedules: no wrong page adopted, none leaked or used too early, no request lost or hanging."""
    for seed in range(block * 200, (block + 1) * 200):
        try:
            simulated(seed, random_faults(random.Random(seed)))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def test_without_faults_every_request_is_handed_over() -> None:
    """Two hundred requests on quiet engines: all are adopted, none is computed twice."""
    ends = Counter(end for seed in range(20) for end in simulated(seed, Faults()).ended.values())
    assert ends["adopted"] >= 0.9 * ends.total()  # those for which P or D has no pages are not


def test_an_expired_lease_stays_expired() -> None:
    """A close that comes after the term is answered as not valid, again and again, though everything had been read."""
    giver = GivingSide("p-1")
    name, _ = giver.offer("r1", 0, (1, 2), "d", now=0.0)
    giver.progressed(name, 2, "token", now=0.1)
    late = 0.1 + giving.TERM_S
    for _ in range(3):
        actions = giver.take(Close(name, wanted=True), "d", now=late)
        answers = [action.message for action in actions if isinstance(action, giving.Send)]
        assert answers == [Closed(name, valid=False)]
    assert giver.leased_pages == 0


def test_every_close_of_a_lease_gets_the_same_answer() -> None:
    """A repeated close finds the tombstone: valid, with the first token, long after the pages were released."""
    giver = GivingSide("p-1")
    name, _ = giver.offer("r1", 0, (1, 2), "d", now=0.0)
    giver.take(Taken(name), "d", now=0.1)
    giver.progressed(name, 2, "token", now=0.2)
    for now in (0.3, 0.6, 30.0):
        actions = giver.take(Close(name, wanted=True), "d", now=now)
        assert giving.Send("d", Closed(name, valid=True, first="token")) in actions
    assert giver.leased_pages == 0


def test_pages_are_announced_as_they_become_ready_and_again() -> None:
    """The offer is repeated until it is taken; then the number of ready pages, which only grows."""
    giver = GivingSide("p-1")
    name, first = giver.offer("r1", 0, (5, 6, 7), "d", now=0.0)
    again = giver.tick(now=giving.ANNOUNCE_S)
    assert first == again == [giving.Send("d", Offer(name, (5, 6, 7)))]
    giver.progressed(name, 2, None, now=0.4)
    assert giver.take(Taken(name), "d", now=0.5) == [giving.Send("d", Ready(name, 2))]
    assert giver.tick(now=0.5 + giving.ANNOUNCE_S) == [giving.Send("d", Ready(name, 2))]


def test_an_offer_that_says_what_is_ready_is_read_at_once() -> None:
    """A prompt that was prefilled in one step costs no further message before its pages are read."""
    taker, name = TakingSide(), LeaseId("p-1", "r1", 0, 1)
    taker.expect(("r1", 0), now=0.0)
    actions = taker.offered(Offer(name, (1, 2, 3), 2), "p", (7, 8, 9), now=0.1)
    assert actions == [giving.Send("p", Taken(name)), Read(1, name, 0, (1, 2), (7, 8, 9))]
    assert taker.take(Ready(name, 3), now=0.2) == [Read(2, name, 2, (3,), (7, 8, 9))]


def test_pages_whose_content_is_known_are_not_read() -> None:
    """Of four pages the first two are here already: nothing is read until a third is ready, and only what is new."""
    taker, name = TakingSide(), LeaseId("p-1", "r1", 0, 1)
    taker.expect(("r1", 0), now=0.0)
    offer = Offer(name, (1, 2, 3, 4), 1)
    assert taker.offered(offer, "p", (6, 7, 8, 9), now=0.1, num_known=2) == [giving.Send("p", Taken(name))]
    assert taker.take(Ready(name, 2), now=5.0) == []
    assert taker.tick(now=10.0) == [], "it gets on, though nothing is to be read yet"
    assert taker.take(Ready(name, 4), now=10.5) == [Read(1, name, 2, (3, 4), (6, 7, 8, 9))]
    assert taker.read_ended(1, ok=True, now=10.6) == [giving.Send("p", Close(name, wanted=True))]


def test_a_request_whose_prefill_engine_is_gone_is_prefilled_here() -> None:
    """Whether its offer had come or not; the other requests wait on."""
    taker, name = TakingSide(), LeaseId("p-1", "r1", 0, 1)
    for request in (("r1", 0), ("r2", 0), ("r3", 0)):
        taker.expect(request, now=0.0)
    taker.offered(Offer(name, (1,)), "p", (7,), now=0.1)
    assert Recompute(("r1", 0), "lost") in taker.abandoned(("r1", 0), "lost", now=0.2)
    assert taker.abandoned(("r2", 0), "lost", now=0.2) == [Recompute(("r2", 0), "lost")]
    assert [taker.waits_for((name, 0)) for name in ("r1", "r2", "r3")] == [False, False, True]


def test_a_read_that_hangs_keeps_its_pages_apart_until_the_agent_is_made_anew() -> None:
    """The request is recomputed in time; its pages come back only when nothing can land in them any more."""
    taker = TakingSide()
    name = LeaseId("p-1", "r1", 0, 1)
    taker.expect(("r1", 0), now=0.0)
    taker.offered(Offer(name, (1, 2)), "p", (8, 9), now=0.1)
    (read,) = taker.take(Ready(name, 2), now=0.2)
    assert isinstance(read, Read)
    given_up = taker.tick(now=0.3 + taking.PATIENCE_S)
    assert Recompute(("r1", 0), "the hand-off did not get on") in given_up
    assert not any(isinstance(action, FreePages) for action in given_up)
    assert taker.quarantined_pages == 2
    assert RecreateAgent() in taker.tick(now=100.0)
    assert taker.tick(now=101.0) == []
    assert FreePages((8, 9)) in taker.agent_recreated(now=102.0)
    assert taker.quarantined_pages == 0
