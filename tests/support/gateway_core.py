"""A gateway's core under test: requests, a sink that checks what it gets, and a world in virtual time."""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from sagellm_common.contracts.dispatch import Dispatch
from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.reports import Progress
from sagellm_common.contracts.sampling import SamplingOptions
from sagellm_common.contracts.scheduling import Assignment, Notice, Submit, SubmitReply
from sagellm_common.errors import DeadlineExceeded, NotFound, ResourceExhausted, SageError
from sagellm_gateway.core import actions as act
from sagellm_gateway.core import events as ev
from sagellm_gateway.core.config import CoreConfig
from sagellm_gateway.core.lifecycle import GatewayCore
from sagellm_gateway.core.request import FOREVER, Request

A = TypeVar("A")
MAX_TOKENS = 12


class CheckingSink:
    """Keeps tokens per choice; fails at once on a gap, a repetition, or anything after the end."""

    def __init__(self, num_choices: int = 1, capacity: int = 10**9) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(num_choices)]
        self.ends: list[str | None] = [None] * num_choices
        self.capacity = capacity
        self.unread = 0

    @property
    def is_full(self) -> bool:
        return self.unread >= self.capacity

    def put(self, item: TokenItem, skip: int) -> None:
        tokens = self.tokens[item.choice]
        assert self.ends[item.choice] is None, "a token after the end"
        assert item.first_index + skip == len(tokens), "a gap or a repetition"
        tokens += item.token_ids[skip:]
        self.unread += len(item.token_ids) - skip
        self.ends[item.choice] = item.finish


def make_request(
    request_id: str = "r1",
    *,
    n: int = 1,
    deadline_at: float = FOREVER,
    now: float = 0.0,
    sink: CheckingSink | None = None,
) -> tuple[Request, CheckingSink]:
    """A request of `MAX_TOKENS` tokens per choice, and its sink."""
    sink = sink or CheckingSink(n)
    submit = Submit(
        request_id=request_id, gateway_id="g1", model="m", prompt_tokens=3, max_tokens=MAX_TOKENS, num_choices=n
    )
    sampling = SamplingOptions(max_tokens=MAX_TOKENS, seed=1, n=n)
    return Request(submit, [1, 2, 3], sampling, sink, now, deadline_at), sink


def make_assignment(request_id: str = "r1", epoch: int = 0, engine_id: str = "e1", **changes: object) -> Assignment:
    """An assignment by the first leader."""
    fields: dict[str, object] = {"incarnation": f"{engine_id}-1", "leader_epoch": (1, 1), "number": 1, **changes}
    return Assignment.model_validate({"request_id": request_id, "epoch": epoch, "engine_id": engine_id, **fields})


def only(actions: list[act.Action], kind: type[A]) -> A:
    """Return the one action of a kind; fail if there is none or more than one."""
    found = [action for action in actions if isinstance(action, kind)]
    assert len(found) == 1, f"{len(found)} of {kind.__name__} in {actions}"
    return found[0]


def of(actions: list[act.Action], kind: type[A]) -> list[A]:
    """Return the actions of a kind."""
    return [action for action in actions if isinstance(action, kind)]


def leading_core(now: float = 0.0, **config: float) -> GatewayCore:
    """A core with bus and leader."""
    core = GatewayCore(CoreConfig(**config))  # type: ignore[arg-type]  # tests name the fields
    core.handle(ev.BusChanged(True), now)
    core.handle(ev.LeaderChanged("s1"), now)
    return core


def streaming_core(n: int = 1, sink: CheckingSink | None = None, **config: float) -> tuple[GatewayCore, CheckingSink]:
    """A core with request `r1`, epoch 0, running on `e1`."""
    core = leading_core(**config)
    request, sink = make_request(n=n, sink=sink)
    core.handle(ev.Accepted(request), 0.0)
    dispatch = only(core.handle(ev.Assigned(make_assignment()), 0.0), act.SendDispatch)
    core.handle(ev.DispatchAnswered("r1", dispatch.attempt, None), 0.0)
    return core, sink


def item(first: int, tokens: list[int], **changes: object) -> TokenItem:
    """Tokens of `r1`, epoch 0, choice 0."""
    fields: dict[str, object] = {"request_id": "r1", "epoch": 0, "choice": 0, **changes}
    return TokenItem(first_index=first, token_ids=tokens, **fields)  # type: ignore[arg-type]  # as tests name them


def token(request_id: str, choice: int, index: int) -> int:
    """The token that every engine of the simulated world makes at a position."""
    return random.Random(f"{request_id}/{choice}/{index}").randrange(1000)


@dataclass(frozen=True)
class Faults:
    """Probabilities of what goes wrong with a message, and delays in seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    max_delay_s: float = 0.02
    refusal: float = 0.0
    engine_deaths: int = 0
    leader_changes: int = 0
    bus_failures: int = 0


@dataclass
class _Engine:
    """One simulated engine: the same tokens everywhere, one per choice and step."""

    engine_id: str
    alive: bool = True
    runs: dict[tuple[str, int], dict[int, list[int]]] = field(default_factory=dict)
    bodies: dict[tuple[str, int], Dispatch] = field(default_factory=dict)
    cancelled: set[tuple[str, int | None]] = field(default_factory=set)

    @property
    def incarnation(self) -> str:
        return f"{self.engine_id}-1"


class World:
    """Scheduler, engines and a faulty bus around one core, in virtual time; the same seed gives the same run."""

    def __init__(self, seed: int, faults: Faults, num_engines: int = 3) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        self.now = 0.0
        self.core = GatewayCore(CoreConfig())
        self.engines = {f"e{i}": _Engine(f"e{i}") for i in range(num_engines)}
        self.sinks: dict[str, CheckingSink] = {}
        self.closed: Counter[str] = Counter()
        self.outcomes: dict[str, act.Closed] = {}
        self.assignments: dict[tuple[str, int], Assignment] = {}
        self.leader_epoch = 1
        self.bus_up = True
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._pushed = 0
        self._numbers: Counter[str] = Counter()

    # time

    def at(self, time: float, work: Callable[[], None]) -> None:
        """Do `work` at a time."""
        self._pushed += 1
        heapq.heappush(self._queue, (time, self._pushed, work))

    def after(self, delay_s: float, work: Callable[[], None]) -> None:
        self.at(self.now + delay_s, work)

    def every(self, period_s: float, work: Callable[[], None]) -> None:
        def again() -> None:
            work()
            self.after(period_s, again)

        self.after(period_s * self.random.random(), again)

    def run(self, requests: int, until: float) -> None:
        """Send `requests` in the first second, let faults happen, run until all have ended or `until`."""
        self.feed(ev.BusChanged(True))
        self.feed(ev.LeaderChanged("s1"))
        for index in range(requests):
            n = self.random.choice((1, 1, 2))
            self.at(self.random.random(), lambda i=index, n=n: self._accept(f"r{i}", n))  # type: ignore[misc]
        self.every(0.05, lambda: self.do(self.core.tick(self.now)))
        self.every(0.02, self._step)
        self.every(0.5, self._heartbeats)
        self._plan_faults()
        while self._queue and self.now < until and not (self.now > 2 and not self.core.requests):
            self.now, _, work = heapq.heappop(self._queue)
            work()

    def _plan_faults(self) -> None:
        for moment, engine_id in zip(self._moments(self.faults.engine_deaths), list(self.engines), strict=False):
            self.at(moment, lambda e=engine_id: self._kill(e))  # type: ignore[misc]
        for moment in self._moments(self.faults.leader_changes):
            self.at(moment, self._change_leader)
        for moment in self._moments(self.faults.bus_failures):
            self.at(moment, lambda: self._bus(False))
            self.at(moment + self.random.random() * 3, lambda: self._bus(True))

    def _moments(self, count: int) -> list[float]:
        return [0.2 + 2 * self.random.random() for _ in range(count)]

    # messages

    def send(self, work: Callable[[], None]) -> None:
        """Carry a message: perhaps never, perhaps twice, after a delay of its own."""
        if not self.bus_up or self.random.random() < self.faults.loss:
            return
        for _ in range(2 if self.random.random() < self.faults.duplication else 1):
            self.after(self.random.random() * self.faults.max_delay_s, work)

    def ask(self, serve: Callable[[], object], answer: Callable[[object], None], timeout_s: float) -> None:
        """Carry a request and its reply; `answer` gets the reply, or DeadlineExceeded, exactly once."""
        answered: list[object] = []

        def settle(reply: object) -> None:
            if not answered:
                answered.append(reply)
                answer(reply)

        def deliver() -> None:
            try:
                reply = serve()
            except SageError as error:
                reply = error
            if reply is not None:
                self.send(lambda: settle(reply))

        self.send(deliver)
        self.after(timeout_s, lambda: settle(DeadlineExceeded("no reply in time")))

    def feed(self, event: ev.Event) -> None:
        self.do(self.core.handle(event, self.now))

    def do(self, actions: list[act.Action]) -> None:
        """Carry out actions as the edge does."""
        for action in actions:
            match action:
                case act.SendSubmit():
                    self._on_submit(action)
                case act.SendDispatch():
                    self._on_dispatch(action)
                case act.SendCancel():
                    self.send(lambda a=action: self._cancelled(a))  # type: ignore[misc]
                case act.SendResend():
                    self._on_resend(action)
                case act.SendAck():
                    self.send(lambda a=action: self._acked(a))  # type: ignore[misc]
                case act.Closed():
                    request_id = action.request.request_id
                    self.closed[request_id] += 1
                    self.outcomes[request_id] = action

    # the client

    def _accept(self, request_id: str, n: int) -> None:
        request, sink = make_request(request_id, n=n, now=self.now)
        self.sinks[request_id] = sink
        self.feed(ev.Accepted(request))

    # the scheduler

    def _on_submit(self, action: act.SendSubmit) -> None:
        submit = action.submit

        def answer(reply: object) -> None:
            assert isinstance(reply, SubmitReply | SageError)
            self.feed(ev.SubmitAnswered(submit.request_id, action.attempt, reply))

        self.ask(lambda: self._queue_up(submit), answer, 2.0)

    def _queue_up(self, submit: Submit) -> SubmitReply:
        key = (submit.request_id, submit.epoch)
        self.after(0.05 * self.random.random(), lambda: self._assign(key, submit))
        return SubmitReply(status="queued")

    def _assign(self, key: tuple[str, int], submit: Submit) -> None:
        known = self.assignments.get(key)
        if known is None or known.leader_epoch[1] != self.leader_epoch:
            living = [e for e in self.engines.values() if e.alive]
            engines = [e for e in living if e.engine_id not in submit.failed_engines] or living
            engine = self.random.choice(engines)
            self._numbers[engine.engine_id] += 1
            known = self.assignments[key] = make_assignment(
                *key, engine.engine_id, leader_epoch=(1, self.leader_epoch), number=self._numbers[engine.engine_id]
            )
        assignment = known
        self.send(lambda: self.feed(ev.Assigned(assignment)))

    def _change_leader(self) -> None:
        self.leader_epoch += 1
        self.feed(ev.LeaderChanged(None))
        self.after(0.5, lambda: self.feed(ev.LeaderChanged(f"s{self.leader_epoch}")))

    # engines

    def _on_dispatch(self, action: act.SendDispatch) -> None:
        engine, body = self.engines[action.engine_id], action.dispatch

        def serve() -> object:
            if not engine.alive:
                return None
            if self.random.random() < self.faults.refusal:
                raise ResourceExhausted("no room")
            key = (body.request_id, body.epoch)
            if key not in engine.cancelled and (body.request_id, None) not in engine.cancelled:
                delivered = body.delivered or [[] for _ in range(body.sampling.n)]
                engine.bodies.setdefault(key, body)
                engine.runs.setdefault(key, {c: list(t) for c, t in enumerate(delivered)})
            return True

        def answer(reply: object) -> None:
            error = reply if isinstance(reply, SageError) else None
            self.feed(ev.DispatchAnswered(body.request_id, action.attempt, error))

        self.ask(serve, answer, action.timeout_s)

    def _step(self) -> None:
        for engine in self.engines.values():
            if not engine.alive:
                continue
            items = [item for key in engine.runs for item in self._advance(engine, key)]
            if items:
                self.send(lambda i=items: self.do(self.core.take(i, self.now)))  # type: ignore[misc]

    def _advance(self, engine: _Engine, key: tuple[str, int]) -> list[TokenItem]:
        items = []
        for choice, tokens in engine.runs[key].items():
            if choice in engine.bodies[key].finished_choices or len(tokens) >= MAX_TOKENS:
                continue
            tokens.append(token(key[0], choice, len(tokens)))
            finish = "length" if len(tokens) == MAX_TOKENS else None
            items.append(TokenItem(*key, choice, len(tokens) - 1, tokens[-1:], finish=finish))
        return items

    def _on_resend(self, action: act.SendResend) -> None:
        engine, resend = self.engines[action.engine_id], action.resend

        def serve() -> object:
            tokens = engine.runs.get((resend.request_id, resend.epoch), {}).get(resend.choice)
            if not engine.alive:
                return None
            if tokens is None:
                raise NotFound("no such request")
            start = resend.from_index
            finish = "length" if len(tokens) == MAX_TOKENS else None
            return TokenItem(resend.request_id, resend.epoch, resend.choice, start, tokens[start:], finish=finish)

        def answer(reply: object) -> None:
            assert isinstance(reply, TokenItem | SageError)
            self.feed(ev.Resent(resend.request_id, resend.epoch, resend.choice, reply))

        self.ask(serve, answer, 2.0)

    def _cancelled(self, action: act.SendCancel) -> None:
        engine = self.engines[action.engine_id]
        engine.cancelled.add((action.request_id, action.epoch))
        for key in list(engine.runs):
            if key[0] == action.request_id and action.epoch in (None, key[1]):
                del engine.runs[key]

    def _acked(self, action: act.SendAck) -> None:
        self.engines[action.engine_id].runs.pop((action.request_id, action.epoch), None)

    def _heartbeats(self) -> None:
        for engine in self.engines.values():
            if engine.alive:
                progress = [
                    Progress(*key, choice, len(tokens), len(tokens) >= MAX_TOKENS)
                    for key, choices in engine.runs.items()
                    for choice, tokens in choices.items()
                ]
                event = ev.Reported(engine.engine_id, engine.incarnation, progress)
                self.send(lambda e=event: self.feed(e))  # type: ignore[misc]

    def _kill(self, engine_id: str) -> None:
        if sum(engine.alive for engine in self.engines.values()) > 1:
            self.engines[engine_id].alive = False
            notice = Notice(kind="engine_lost", engine_id=engine_id, incarnation=f"{engine_id}-1")
            self.after(2.0, lambda: self.send(lambda: self.feed(ev.Noticed(notice))))

    # the bus

    def _bus(self, up: bool) -> None:
        if up != self.bus_up:
            self.bus_up = up
            self.feed(ev.BusChanged(up))

    # what must hold

    def check(self, *, all_finish: bool = True) -> None:
        """Each request has ended exactly once, with the right tokens; whole, if `all_finish`."""
        for request_id, sink in self.sinks.items():
            assert self.closed[request_id] == 1, f"{request_id} ended {self.closed[request_id]} times"
            outcome = self.outcomes[request_id].outcome
            assert outcome.phase == "finished" or (not all_finish and outcome.error), f"{request_id}: {outcome}"
            for choice, tokens in enumerate(sink.tokens):
                assert tokens == [token(request_id, choice, i) for i in range(len(tokens))]
                if outcome.phase == "finished":
                    assert (len(tokens), sink.ends[choice]) == (MAX_TOKENS, "length")
