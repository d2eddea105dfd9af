"""A deployment in virtual time: gateways, schedulers and engines on a bus, fed with a trace."""

import gc
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.contracts.decisions import DecisionRecord
from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.handoff import LeaseAbort
from sagellm_common.contracts.kv import KvEvents
from sagellm_common.contracts.policy import LEADER_TTL_S
from sagellm_common.contracts.reports import EngineReport
from sagellm_common.contracts.scheduling import Assignment, Submit, SubmitReply
from sagellm_common.contracts.slo import NO_SLO, Slo
from sagellm_engine.transfer.lease import Message
from sagellm_gateway.core.actions import SendDispatch, SendResend
from sagellm_gateway.core.request import Outcome, Request
from sagellm_gateway.edge.figures import end_event
from sagellm_scheduler.core import events as ev
from sagellm_scheduler.core.config import CoreConfig
from sagellm_scheduler.queueing.policy import QUEUE_POLICIES
from sagellm_scheduler.routing.router import ROUTERS
from sagellm_scheduler.separation.policy import SEPARATION_POLICIES
from sagellm_simulation import gateway, scheduler
from sagellm_simulation.engine import SimEngine
from sagellm_simulation.kernel import Kernel
from sagellm_simulation.network import NO_FAULTS, Network, NetworkFaults
from sagellm_simulation.specs import EngineSpec
from sagellm_simulation.trace import Trace, TraceRequest

MODEL = "model"
SELDOM = 200_000
"""Objects made between two looks for garbage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is simulated. Engines die at the times in `deaths` (engine, at, back after so many seconds or never), and
    the scheduler that leads at those in `scheduler_deaths`: a standby takes over when its lease has run out, and
    another standby is started."""

    engines: tuple[EngineSpec, ...]
    queue: str = "fifo"
    router: str = "predictive"
    pd: str = "adaptive"
    slo: Slo = NO_SLO
    admission_slack: float | None = None
    backlog_s: float = 0.1
    max_queue_time_s: float = 600.0
    num_gateways: int = 1
    network: NetworkFaults = NO_FAULTS
    deaths: tuple[tuple[int, float, float | None], ...] = ()
    scheduler_deaths: tuple[float, ...] = ()
    seed: int = 0
    jump: bool = True
    heartbeat_s: float = 0.5
    tick_s: float = 0.05
    drain_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended. Times in seconds: `ttft_s` from its arrival, `itl_s` the mean from token to token."""

    asked: TraceRequest
    phase: str
    ttft_s: float | None
    itl_s: float | None
    e2e_s: float
    tokens: int
    epochs: int
    engine_id: str | None

    def met(self, slo: Slo) -> bool:
        """Whether it was answered in time."""
        return (
            self.phase == "finished"
            and _within(self.ttft_s, slo.ttft_ms)
            and _within(self.itl_s, slo.itl_ms)
            and _within(self.e2e_s, slo.deadline_ms)
        )


@dataclass(slots=True)
class Result:
    """What came of a simulation. `busy_s`: by engine. `seconds`: from the first arrival to the last end."""

    scenario: Scenario
    trace: Trace
    ended: list[Ended] = field(default_factory=list)
    records: list[DecisionRecord] = field(default_factory=list)
    busy_s: dict[str, float] = field(default_factory=dict)
    tokens_cached: int = 0
    tokens_prefilled: int = 0
    seconds: float = 0.0
    messages: int = 0


class Observer(Protocol):
    """Who hears what is said on the bus: a planner."""

    def accepted(self, prompt_tokens: int, now: float) -> None:
        """A gateway has accepted a request."""

    def ended(self, event: RequestEvent, now: float) -> None:
        """A request has ended."""

    def registered(self, registration: EngineRegistration) -> None:
        """An engine is there."""

    def gone(self, engine_id: str) -> None:
        """An engine is there no longer."""

    def reported(self, report: EngineReport, now: float) -> None:
        """An engine has reported."""


class World:
    """All parts and the wires between them. Everything random comes from the scenario's seed."""

    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        self.scenario, self.trace = scenario, trace
        self.kernel = Kernel()
        self.result = Result(scenario, trace)
        self.assigned: list[tuple[str, int, LeaderEpoch, str]] = []
        self.dispatched: list[tuple[str, int, str]] = []
        self._network = Network(self.kernel, scenario.network, random.Random(scenario.seed))
        self._gateways = {f"g{n}": self._gateway(f"g{n}") for n in range(scenario.num_gateways)}
        self._schedulers = [self._made_scheduler("s1")]
        if scenario.scheduler_deaths:
            self._schedulers.append(self._made_scheduler("s2"))
        self._leader = self._schedulers[0]
        self.workload = {request.request_id: request for request in trace.requests}
        self.engines: dict[str, SimEngine] = {}
        for spec in scenario.engines:
            self._made_engine(spec)
        self.observer: Observer | None = None

    def add_engine(self, spec: EngineSpec) -> SimEngine:
        """Have one more engine begin to serve."""
        engine = self._made_engine(spec)
        self._register(engine)
        return engine

    def retire_engine(self, engine: SimEngine) -> None:
        """Have an engine end that has nothing left to do."""
        engine.retire()
        self._tell_all(ev.EngineGone(engine.engine_id))
        if self.observer is not None:
            self.observer.gone(engine.engine_id)

    def _made_engine(self, spec: EngineSpec) -> SimEngine:
        scenario, engine_id = self.scenario, f"e{len(self.engines)}"
        engine = self.engines[engine_id] = SimEngine(
            self.kernel,
            engine_id,
            spec,
            self.workload,
            self,
            block=self.trace.block,
            heartbeat_s=scenario.heartbeat_s,
            jump=scenario.jump,
            tells_progress=scenario.network != NO_FAULTS or bool(scenario.deaths),
        )
        return engine

    def run(self, progress: Callable[[], None] = lambda: None) -> Result:
        """Feed the trace and wait for the last request to end; `progress` is called every ten simulated seconds."""
        self.kernel.every(10.0, progress)
        self._begin()
        self._arrives(0)
        last = self.trace.requests[-1].at if self.trace.requests else 0.0
        total = len(self.trace.requests)
        self.kernel.run(last + self.scenario.drain_s, done=lambda: len(self.result.ended) >= total)
        result = self.result
        result.seconds = self.kernel.now
        result.messages = self._network.num_sent
        for engine in self.engines.values():
            result.busy_s[engine.engine_id] = engine.busy_s
            result.tokens_cached += engine.tokens_cached
            result.tokens_prefilled += engine.tokens_prefilled
        return result

    def settle(self) -> None:
        """Let a minute pass, so that cancels and heartbeats reach whom they concern."""
        self.kernel.run(self.kernel.now + 60.0)

    def _begin(self) -> None:
        self._lead(self._leader, 1)
        for gateway_id in self._gateways:
            self._tell_all(ev.GatewaySeen(gateway_id, "1"))
        for number, at_s in enumerate(self.scenario.scheduler_deaths):
            self.kernel.at(at_s, self._leader_dies, number + 2)
        self.kernel.every(1.0, self._gateways_beat)
        for engine in self.engines.values():
            self._register(engine)
        for number, at_s, back_s in self.scenario.deaths:
            engine = self.engines[f"e{number}"]
            self.kernel.at(at_s, engine.die)
            if back_s is not None:
                self.kernel.at(at_s + back_s, self._restart, engine)

    def _restart(self, engine: SimEngine) -> None:
        engine.restart()
        self._register(engine)

    def _lead(self, leader: scheduler.SimScheduler, term: int) -> None:
        self._leader = leader
        leader.lead((1, term))
        for at in self._gateways.values():
            at.leader_changed(leader.scheduler_id)

    def _leader_dies(self, term: int) -> None:
        self._leader.alive = False
        self._schedulers.remove(self._leader)
        self.kernel.after(LEADER_TTL_S, lambda: self._lead(self._schedulers[0], term))
        standby = self._made_scheduler(f"s{term + 1}")
        for engine in self.engines.values():
            if engine.alive:
                standby.feed(ev.EngineRegistered(engine.registration(MODEL)))
        self._schedulers.append(standby)

    def _tell_all(self, event: ev.Event) -> None:
        for standing in self._schedulers:
            standing.feed(event)

    def _publish(self, sender: str, event: ev.Event) -> None:
        """Have a message carried to every scheduler."""
        for standing in self._schedulers:
            self._send((sender, standing.scheduler_id), standing.feed, event)

    def _arrives(self, number: int) -> None:
        """Have the trace's next request come when its time comes, and those after it."""
        if number < len(self.trace.requests):
            self.kernel.at(self.trace.requests[number].at, self._accept, number)

    def _accept(self, number: int) -> None:
        request, names = self.trace.requests[number], list(self._gateways)
        self._arrives(number + 1)
        if self.observer is not None:
            self.observer.accepted(request.prompt_tokens, self.kernel.now)
        self._gateways[names[number % len(names)]].accept(request)

    def _register(self, engine: SimEngine) -> None:
        registration = engine.registration(MODEL)
        self._tell_all(ev.EngineRegistered(registration))
        if self.observer is not None:
            self.observer.registered(registration)
        engine.announce()

    def _gateways_beat(self) -> None:
        for gateway_id in self._gateways:
            self._publish(gateway_id, ev.GatewaySeen(gateway_id, "1"))

    # parts

    def _made_scheduler(self, scheduler_id: str) -> scheduler.SimScheduler:
        scenario, wires = self.scenario, scheduler.Wires()
        wires.assign = self._assign
        wires.notify = lambda gateway_id, notice: self._send(
            (scheduler_id, gateway_id), self._gateways[gateway_id].noticed, notice
        )
        wires.ask = lambda gateway_id: self._send(
            (scheduler_id, gateway_id), self._asked, made, gateway_id, self.kernel.now
        )
        wires.ask_engine = lambda engine_id: self._send((scheduler_id, engine_id), self._ask_engine, made, engine_id)
        wires.ended = self.result.records.append
        config = CoreConfig(
            scheduler_id=scheduler_id,
            queue=QUEUE_POLICIES.make(scenario.queue),
            router=ROUTERS.make(scenario.router),
            separation=SEPARATION_POLICIES.make(scenario.pd),
            max_queue=1_000_000,
            max_queue_time_s=scenario.max_queue_time_s,
            default_slo=scenario.slo,
            backlog_s=scenario.backlog_s,
            admission_slack=scenario.admission_slack,
            block_tokens=self.trace.block,
            stale_after_s=max(1.0, 2.5 * scenario.heartbeat_s),
            engine_timeout_s=max(2.0, 4 * scenario.heartbeat_s),
        )
        made = scheduler.SimScheduler(self.kernel, config, wires, tick_s=scenario.tick_s)
        return made

    def _gateway(self, gateway_id: str) -> gateway.SimGateway:
        wires = gateway.Wires()
        wires.submit = lambda submit, answer: self._submit(self._leader, gateway_id, submit, answer)
        wires.dispatch = lambda action, answer: self._dispatch(gateway_id, action, answer)
        wires.prefill = lambda action, answer: self._send(
            (gateway_id, action.engine_id),
            self.engines[action.engine_id].dispatch,
            action.dispatch,
            lambda: self._send((action.engine_id, gateway_id), answer),
        )
        wires.abort = lambda action: self._send(
            (gateway_id, action.engine_id), self._aborted, action.engine_id, action.abort
        )
        wires.cancel = lambda action: self._send(
            (gateway_id, action.engine_id),
            self.engines[action.engine_id].cancel,
            action.request_id,
            action.epoch,
        )
        wires.ack = lambda action: self._send(
            (gateway_id, action.engine_id), self.engines[action.engine_id].ack, (action.request_id, action.epoch)
        )
        wires.resend = lambda action, answer: self._send(
            (gateway_id, action.engine_id),
            self._resent,
            action,
            lambda item: self._send((action.engine_id, gateway_id), answer, item),
        )
        return gateway.SimGateway(self.kernel, gateway_id, MODEL, wires, self._closed, tick_s=self.scenario.tick_s)

    # messages

    def _send(self, link: tuple[str, str], deliver: object, *args: object) -> None:
        self._network.send(link, deliver, *args)  # type: ignore[arg-type] # callables of all sorts

    def frame(self, engine: SimEngine, gateway_id: str, items: list[TokenItem]) -> None:
        """An engine publishes tokens."""
        at = self._gateways[gateway_id]
        self._send((engine.engine_id, gateway_id), at.frame, engine.engine_id, engine.incarnation, items)

    def report(self, engine: SimEngine, report: EngineReport) -> None:
        """An engine publishes a report."""
        self._publish(engine.engine_id, ev.EngineReported(report))
        if self.observer is not None:
            self.observer.reported(report, self.kernel.now)
        for gateway_id, at in self._gateways.items():
            progress = report.progress.get(gateway_id, [])
            self._send((engine.engine_id, gateway_id), at.reported, engine.engine_id, engine.incarnation, progress)

    def cache(self, engine: SimEngine, events: KvEvents) -> None:
        """An engine publishes changes of its prefix cache."""
        self._publish(engine.engine_id, ev.CacheChanged(events))

    def lease(self, engine: SimEngine, to: str, message: Message) -> None:
        """An engine speaks to another about a hand-off."""
        self._send((engine.engine_id, to), self._leased, to, message, engine.engine_id)

    def lives(self, incarnation: str) -> bool:
        """Whether the life of an engine goes on."""
        engine = self.engines[incarnation.rpartition("-")[0]]
        return engine.alive and engine.incarnation == incarnation

    def _leased(self, to: str, message: Message, sender: str) -> None:
        self.engines[to].handoffs.received(message, sender)

    def _aborted(self, engine_id: str, abort: LeaseAbort) -> None:
        engine = self.engines[engine_id]
        if engine.alive:
            engine.handoffs.abandoned((abort.request_id, abort.epoch))

    def _ask_engine(self, asking: scheduler.SimScheduler, engine_id: str) -> None:
        engine = self.engines[engine_id]
        if engine.alive:
            self._send((engine_id, asking.scheduler_id), asking.feed, ev.CacheLearnt(engine.snapshot()))

    def _assign(self, gateway_id: str, assignment: Assignment) -> None:
        key = assignment.request_id, assignment.epoch
        self.assigned.append((*key, assignment.leader_epoch, assignment.engine_id))
        self._send(("scheduler", gateway_id), self._gateways[gateway_id].assigned, assignment)

    def _submit(
        self, leader: scheduler.SimScheduler, gateway_id: str, submit: Submit, answer: Callable[[SubmitReply], None]
    ) -> None:
        here, there = (gateway_id, leader.scheduler_id), (leader.scheduler_id, gateway_id)
        self._send(here, leader.submit, submit, lambda reply: self._send(there, answer, reply))

    def _resent(self, action: SendResend, answer: Callable[[TokenItem | None], None]) -> None:
        asked, engine = action.resend, self.engines[action.engine_id]
        if engine.alive:
            answer(engine.resend((asked.request_id, asked.epoch), asked.from_index))

    def _dispatch(self, gateway_id: str, action: SendDispatch, answer: Callable[[], None]) -> None:
        body, engine = action.dispatch, self.engines[action.engine_id]
        self.dispatched.append((body.request_id, body.epoch, action.engine_id))
        there, back = (gateway_id, action.engine_id), (action.engine_id, gateway_id)
        self._send(there, engine.dispatch, body, lambda: self._send(back, answer))

    def _asked(self, asking: scheduler.SimScheduler, gateway_id: str, asked_at: float) -> None:
        answer = ev.OpenLearnt(gateway_id, tuple(self._gateways[gateway_id].open_requests()), asked_at)
        self._send((gateway_id, asking.scheduler_id), asking.feed, answer)

    def _closed(self, request: Request, outcome: Outcome) -> None:
        event = end_event(request, outcome)
        self._publish(request.submit.gateway_id, ev.RequestEnded(event))
        if self.observer is not None:
            self.observer.ended(event, self.kernel.now)
        self.result.ended.append(
            Ended(
                self.workload[request.request_id],
                outcome.phase,
                outcome.ttft_s,
                None if event.itl_mean_ms is None else event.itl_mean_ms / 1e3,
                outcome.e2e_s,
                outcome.completion_tokens,
                outcome.epoch + 1,
                outcome.engine_id,
            )
        )


def simulate(scenario: Scenario, trace: Trace) -> Result:
    """Run a scenario on a trace; the same scenario and trace give the same result.

    What is made goes without cycles; to look for them as often as Python does takes an eighth of the time.
    """
    often = gc.get_threshold()
    gc.set_threshold(SELDOM, *often[1:])
    try:
        return World(scenario, trace).run()
    finally:
        gc.set_threshold(*often)


def _within(measured_s: float | None, limit_ms: float | None) -> bool:
    return limit_ms is None or measured_s is None or measured_s * 1e3 <= limit_ms
