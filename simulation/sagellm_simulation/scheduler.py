"""The real scheduler core in virtual time."""

from collections.abc import Callable

from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.contracts.decisions import DecisionRecord
from sagellm_common.contracts.scheduling import Assignment, Notice, Submit, SubmitReply
from sagellm_scheduler.core import actions as act
from sagellm_scheduler.core import events as ev
from sagellm_scheduler.core.config import CoreConfig
from sagellm_scheduler.core.machine import SchedulerCore
from sagellm_simulation.kernel import Kernel


class Wires:
    """What a scheduler sends; set by the world."""

    assign: Callable[[str, Assignment], None]
    notify: Callable[[str, Notice], None]
    ask: Callable[[str], None]
    ask_engine: Callable[[str], None]
    ended: Callable[[DecisionRecord], None]


class SimScheduler:
    """One scheduler, leading once told so."""

    def __init__(self, kernel: Kernel, config: CoreConfig, wires: Wires, *, tick_s: float) -> None:
        self._kernel, self._wires = kernel, wires
        self.scheduler_id = config.scheduler_id
        self.core = SchedulerCore(config)
        self.alive = True
        self.feed(ev.BusUp())
        kernel.every(tick_s, lambda: self.feed(ev.Tick()))

    def lead(self, leader_epoch: LeaderEpoch) -> None:
        """The lease is ours."""
        self.feed(ev.LeadershipGained(leader_epoch))

    def feed(self, event: ev.Event) -> None:
        """Take an event that no reply belongs to."""
        if self.alive:
            self._perform(self.core.handle(event, self._kernel.now))

    def submit(self, submit: Submit, answer: Callable[[SubmitReply], None]) -> None:
        """Answer a submit."""
        if not self.alive:
            return
        actions = self.core.handle(ev.Submitted(submit), self._kernel.now)
        for action in actions:
            if isinstance(action, act.Reply):
                answer(action.reply)
        self._perform(actions)

    def _perform(self, actions: list[act.Action]) -> None:
        for action in actions:
            match action:
                case act.Assign():
                    self._wires.assign(action.gateway_id, action.assignment)
                case act.Notify():
                    self._wires.notify(action.gateway_id, action.notice)
                case act.AskGateway():
                    self._wires.ask(action.gateway_id)
                case act.AskEngine():
                    self._wires.ask_engine(action.engine_id)
                case act.PublishRecord():
                    if action.record.outcome is not None:
                        self._wires.ended(action.record)
