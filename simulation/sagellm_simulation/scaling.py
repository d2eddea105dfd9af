"""The real planner in virtual time, and a scaler that starts engines and drains them."""

from dataclasses import dataclass, field

from sagellm_common.contracts.plan import FleetPlan
from sagellm_scheduler.planner.core import FIRST_MARGIN, Planner, PlannerConfig
from sagellm_scheduler.planner.demand import HOUR_S
from sagellm_scheduler.planner.seasons import next_hours
from sagellm_simulation.engine import SimEngine
from sagellm_simulation.specs import EngineSpec
from sagellm_simulation.world import MODEL, Result, Scenario, World

EMPTY_EVERY_S = 5.0


@dataclass(slots=True)
class Scaled:
    """What came of it: engine-hours from the order of an engine to its end, and the plans by time."""

    result: Result
    engine_hours: float = 0.0
    plans: list[tuple[float, FleetPlan]] = field(default_factory=list)


class Scaler:
    """Keeps as many engines of one kind as the planner wants, each `start_s` after its order.

    `hours` are the requests a second of the hours before, from which the first forecasts are made.
    """

    def __init__(
        self,
        world: World,
        spec: EngineSpec,
        config: PlannerConfig,
        *,
        start_s: float,
        every_s: float = 60.0,
        hours: list[float] | None = None,
    ) -> None:
        self._world, self._spec, self._start_s = world, spec, start_s
        former = FleetPlan(model=MODEL, time_s=0.0, groups=[], hours=hours or [], margin=FIRST_MARGIN)
        self._planner = Planner(config, MODEL, former)
        self._ordered = 0
        self._since = {engine.engine_id: 0.0 for engine in world.engines.values()}
        self._forecast_from: list[float] | None = None
        self.plans: list[tuple[float, FleetPlan]] = []
        self.engine_seconds = 0.0
        world.observer = self._planner
        world.kernel.every(every_s, self._plan)
        world.kernel.every(EMPTY_EVERY_S, self._retire_empty)

    def _plan(self) -> None:
        now = self._world.kernel.now
        if (hours := self._planner.hours) != self._forecast_from:
            self._forecast_from = hours
            self._planner.forecasted(next_hours(hours))
        plan = self._planner.plan(now)
        if plan is not None:
            self.plans.append((now, plan))
            self._follow(plan.count)

    def _engines(self, state: str) -> list[SimEngine]:
        return [engine for engine in self._world.engines.values() if engine.state == state]

    def _follow(self, wanted: int) -> None:
        ready = self._engines("ready")
        missing = wanted - len(ready) - self._ordered
        for engine in self._engines("draining")[: max(0, missing)]:
            engine.change("ready")
            missing -= 1
        for _ in range(missing):
            self._ordered += 1
            self._world.kernel.after(self._start_s, self._arrive, self._world.kernel.now)
        for engine in sorted(ready, key=lambda engine: engine.num_open)[: max(0, -missing)]:
            engine.change("draining")

    def _arrive(self, ordered_at: float) -> None:
        self._ordered -= 1
        engine = self._world.add_engine(self._spec)
        self._since[engine.engine_id] = ordered_at

    def _retire_empty(self) -> None:
        for engine in self._engines("draining"):
            if engine.num_open == 0:
                self._world.retire_engine(engine)
                self.engine_seconds += self._world.kernel.now - self._since.pop(engine.engine_id)

    def end(self, now: float) -> None:
        """Count the engines that still run."""
        self.engine_seconds += sum(now - since for since in self._since.values())


def simulate_scaled(
    scenario: Scenario,
    world: World,
    config: PlannerConfig,
    *,
    start_s: float,
    hours: list[float] | None = None,
) -> Scaled:
    """Run a world whose engines, all of the kind of the scenario's first, come and go as the planner says."""
    scaler = Scaler(world, scenario.engines[0], config, start_s=start_s, hours=hours)
    result = world.run()
    scaler.end(world.trace.requests[-1].at)
    return Scaled(result, scaler.engine_seconds / HOUR_S, scaler.plans)
