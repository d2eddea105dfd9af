"""Playing the scheduler's surroundings: builders of messages, and a core driven in virtual time."""

import itertools
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.reports import EngineReport, Gauges
from sagellm_common.contracts.scheduling import Assignment, Notice, Submit, SubmitReply
from sagellm_common.contracts.slo import Priority
from sagellm_scheduler.core import events
from sagellm_scheduler.core.actions import Action, AskGateway, Assign, Notify, PublishRecord, Reply
from sagellm_scheduler.core.config import CoreConfig
from sagellm_scheduler.core.machine import SchedulerCore
from sagellm_scheduler.queueing.policy import QUEUE_POLICIES, QueuePolicy
from sagellm_scheduler.routing.router import ROUTERS, Router

A = TypeVar("A", bound=Action)
EPOCH: LeaderEpoch = (1000, 1)


def submit(request_id: str = "r1", **fields: Any) -> Submit:
    """A submit of a small request for the model `m`."""
    return Submit(
        **{"gateway_id": "g1", "model": "m", "prompt_tokens": 10, "max_tokens": 10, **fields}, request_id=request_id
    )


def registration(engine_id: str = "e1", **fields: Any) -> EngineRegistration:
    """A registration of a mock engine for the model `m` with 4 sequence slots."""
    known: dict[str, Any] = {
        "incarnation": "i1",
        "models": ("m",),
        "backend": "mock",
        "kind": "mock",
        "max_model_len": 4096,
        "page_size": 16,
        "num_pages": 1024,
        "max_num_seqs": 4,
        "max_batch_tokens": 2048,
    }
    return EngineRegistration(**{**known, **fields}, engine_id=engine_id)


def report(
    engine: EngineRegistration,
    number: int,
    *,
    running: int = 0,
    waiting: int = 0,
    used_pages: int = 0,
    leader_epoch: LeaderEpoch = (0, 0),
    last_assignment: int = 0,
    state: str = "ready",
    kv_number: int = 0,
    itl_limit_s: float = 0.0,
    leaving: int = 0,
    leaving_tokens: int = 0,
    expected: int = 0,
) -> EngineReport:
    """A report with the gauges that matter to the scheduler."""
    gauges = Gauges(
        pages_total=engine.num_pages,
        pages_free=engine.num_pages - used_pages,
        pages_cached=0,
        waiting=waiting,
        running=running,
        waiting_tokens=0,
        running_tokens=used_pages * engine.page_size,
        busy=0.5,
        itl_limit_s=itl_limit_s,
        leaving=leaving,
        leaving_tokens=leaving_tokens,
        expected=expected,
    )
    return EngineReport(
        engine.engine_id,
        engine.incarnation,
        number,
        gauges,
        list(leader_epoch),
        last_assignment,
        state=state,
        kv_number=kv_number,
    )


@dataclass
class Driver:
    """A scheduler core in virtual time, with everything it has done so far."""

    core: SchedulerCore
    now: float = 100.0
    done: list[Action] = field(default_factory=list)
    engines: dict[str, EngineRegistration] = field(default_factory=dict)
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @classmethod
    def leading(
        cls, *, queue: str | QueuePolicy = "fifo", router: str | Router = "load_balanced", **settings: Any
    ) -> "Driver":
        """A leader whose bus is up; it knows neither engines nor gateways."""
        driver = cls.standby(queue=queue, router=router, **settings)
        driver.feed(events.LeadershipGained(EPOCH))
        return driver

    @classmethod
    def standby(
        cls, *, queue: str | QueuePolicy = "fifo", router: str | Router = "load_balanced", **settings: Any
    ) -> "Driver":
        """A scheduler that does not lead, whose bus is up."""
        config = CoreConfig(
            scheduler_id="s1", queue=QUEUE_POLICIES.make(queue), router=ROUTERS.make(router), **settings
        )
        driver = cls(SchedulerCore(config))
        driver.feed(events.BusUp())
        return driver

    def feed(self, event: events.Event) -> list[Action]:
        """Handle an event now; returns the actions it called for."""
        actions = self.core.handle(event, self.now)
        self.done.extend(actions)
        return actions

    def submit(self, request_id: str = "r1", **fields: Any) -> SubmitReply:
        """Submit a request and return its answer."""
        actions = self.feed(events.Submitted(submit(request_id, **fields)))
        (reply,) = [action.reply for action in actions if isinstance(action, Reply)]
        return reply

    def engine(self, engine_id: str = "e1", *, reports: bool = True, **fields: Any) -> EngineRegistration:
        """Register an engine and, unless told otherwise, have it report that it is idle."""
        made = self.engines[engine_id] = registration(engine_id, **fields)
        self.feed(events.EngineRegistered(made))
        if reports:
            self.report(engine_id)
        return made

    def report(self, engine_id: str = "e1", **gauges: Any) -> list[Action]:
        """Have an engine report; what it has seen is under our leader epoch unless told otherwise."""
        gauges.setdefault("leader_epoch", EPOCH)
        return self.feed(events.EngineReported(report(self.engines[engine_id], next(self.numbers), **gauges)))

    def heartbeat(self, gateway_id: str = "g1", incarnation: str = "i1") -> list[Action]:
        """Have a gateway be seen."""
        return self.feed(events.GatewaySeen(gateway_id, incarnation))

    def end(self, request_id: str, phase: Any = "finished", **fields: Any) -> list[Action]:
        """Have a gateway close a request."""
        return self.feed(events.RequestEnded(RequestEvent(request_id=request_id, phase=phase, **fields)))

    def wait(self, seconds: float, *, alive: tuple[str, ...] = (), step: float = 0.05) -> list[Action]:
        """Let time pass in ticks; engines in `alive` report their last gauges four times a second, gateways beat."""
        actions: list[Action] = []
        until = self.now + seconds
        count = 0
        while self.now < until - 1e-9:
            self.now = min(until, self.now + step)
            if count % 5 == 0:
                for engine_id in alive:
                    actions += self._again(engine_id)
            actions += self.feed(events.Tick())
            count += 1
        return actions

    def _again(self, engine_id: str) -> list[Action]:
        engine = self.core.fleet.get(engine_id)
        if engine is None or engine.report is None:
            return self.report(engine_id)
        last, self_number = engine.report, next(self.numbers)
        again = EngineReport(
            last.engine_id,
            last.incarnation,
            self_number,
            last.gauges,
            last.leader_epoch,
            last.last_assignment,
            last.state,
        )
        return self.feed(events.EngineReported(again))

    # what has been done

    def all(self, kind: type[A]) -> list[A]:
        """All actions of a kind so far."""
        return [action for action in self.done if isinstance(action, kind)]

    @property
    def assignments(self) -> list[Assignment]:
        return [action.assignment for action in self.all(Assign)]

    @property
    def order(self) -> list[str]:
        """Request ids in the order in which they were assigned."""
        return [assignment.request_id for assignment in self.assignments]

    @property
    def notices(self) -> list[Notice]:
        return [action.notice for action in self.all(Notify)]

    @property
    def records(self) -> list[PublishRecord]:
        return self.all(PublishRecord)

    @property
    def asked(self) -> list[str]:
        """Gateways asked for their open requests, in order."""
        return [action.gateway_id for action in self.all(AskGateway)]

    def reserved(self) -> int:
        """Sequence slots reserved on all engines together."""
        return sum(engine.reservations.seqs for engine in self.core.fleet)


HIGH, LOW, CRITICAL = Priority.HIGH, Priority.LOW, Priority.CRITICAL
