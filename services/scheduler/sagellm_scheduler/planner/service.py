"""The planner on the bus: hears what gateways and engines say, keeps plans in the bucket `plans`, drives a scaler."""

import asyncio
import os
import time
from collections import Counter
from contextlib import AsyncExitStack

import structlog

from sagellm_common import tasks
from sagellm_common.bus import Bus, MicroService, Received
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration, EngineRole
from sagellm_common.contracts.events import END_PHASES, RequestEvent
from sagellm_common.contracts.plan import EngineGroup, FleetPlan
from sagellm_common.contracts.reports import EngineReport
from sagellm_common.contracts.slo import Slo
from sagellm_common.errors import SageError, Unavailable
from sagellm_common.telemetry import metrics as metrics_server
from sagellm_scheduler.planner.core import Planner, PlannerConfig
from sagellm_scheduler.planner.demand import HOUR_S
from sagellm_scheduler.planner.kept import KeptPlans, caught_up
from sagellm_scheduler.planner.metrics import PlannerMetrics
from sagellm_scheduler.planner.offers import read_offers
from sagellm_scheduler.planner.scaler import Scaler, follow
from sagellm_scheduler.planner.seasons import next_hours
from sagellm_scheduler.planner.settings import PlannerSettings

log = structlog.get_logger(__name__)


async def serve(settings: PlannerSettings, stop: asyncio.Event) -> None:
    """Plan until `stop` is set; raises Unavailable if the bus or the cluster cannot be had."""
    metrics = PlannerMetrics()
    async with AsyncExitStack() as stack:
        port = metrics_server.serve(metrics.registry, settings.metrics_port)
        if port is not None:
            stack.callback(port.close)
        scaler = await _scaler(settings, stack)
        bus = await Bus.connect(settings, f"planner {settings.planner_id}")
        stack.push_async_callback(bus.close)
        planner = PlannerService(settings, bus, scaler, metrics)
        await planner.start()
        await stop.wait()
        await planner.stop()


async def _scaler(settings: PlannerSettings, stack: AsyncExitStack) -> Scaler | None:
    if settings.scaler == "none":
        return None
    from sagellm_scheduler.planner.kubernetes import Cluster, KubernetesScaler  # httpx need not be there else

    scaler = KubernetesScaler(Cluster.of(settings, os.environ))
    stack.push_async_callback(scaler.close)
    return scaler


def config_of(settings: PlannerSettings) -> PlannerConfig:
    """Return what the settings ask for; raises InvalidArgument if the offers cannot be read."""
    return PlannerConfig(
        slo=Slo(ttft_ms=settings.slo_ttft_ms, itl_ms=settings.slo_itl_ms),
        attainment=settings.plan_attainment,
        least=settings.plan_least,
        most=settings.plan_most,
        lead_s=settings.plan_lead_s,
        hold_s=settings.plan_hold_s,
        apart=settings.plan_roles,
        offers=read_offers(settings.plan_offers) if settings.plan_offers else (),
    )


class PlannerService:
    """One planner for each model that engines serve or have served; time is seconds since the epoch."""

    def __init__(self, settings: PlannerSettings, bus: Bus, scaler: Scaler | None, metrics: PlannerMetrics) -> None:
        self._settings, self._bus, self._scaler, self._metrics = settings, bus, scaler, metrics
        self._config = config_of(settings)
        self._planners: dict[str, Planner] = {}
        self._engines: dict[str, EngineRegistration] = {}
        self._ids: dict[str, str] = {}
        self._states: dict[str, str] = {}
        self._num_open: dict[str, int] = {}
        self._forecast_from: dict[str, list[float]] = {}
        self._can_forecast = True
        self._gives_up_from = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the plans of before, subscribe, announce itself, begin to plan."""
        bus, subjects = self._bus, self._bus.settings.subjects
        self._plans = await KeptPlans.open(bus)
        self._planners = {model: self._made(model) for model in self._plans.newest}
        self._listens_anew()
        bus.on_reconnect(self._listens_anew)
        for phase in ("accepted", *sorted(END_PHASES)):
            await bus.subscribe(subjects.request_event(phase), RequestEvent, self._heard)
        await bus.subscribe(subjects.engine_metrics("*"), EngineReport, self._reported)
        engines = await bus.bucket(subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
        self._follower = await engines.follow(EngineRegistration, self._registered, self._gone)
        settings = self._settings
        metadata = {
            "id": settings.planner_id,
            "pid": str(os.getpid()),
            "host": settings.host_name,
            "deployment": settings.deployment,
        }
        self._micro = await MicroService.start(bus, "planner", "Says how many engines are wanted.", metadata)
        await bus.flush()
        self._task = asyncio.create_task(self._plan_for_ever())
        log.info("planner_started", every_s=settings.plan_every_s, scaler=settings.scaler, known=len(self._planners))

    async def stop(self) -> None:
        """Plan no more, withdraw from the bus."""
        if self._task is not None:
            await tasks.end(self._task)
        await self._follower.stop()
        await self._micro.stop()

    def _made(self, model: str) -> Planner:
        former = self._plans.newest.get(model)
        return Planner(self._config, model, former and caught_up(former, int(time.time() / HOUR_S)))

    def _listens_anew(self) -> None:
        """What came meanwhile has not been heard: until we have listened for long enough, nothing is given up."""
        self._gives_up_from = time.time() + self._config.hold_s
        for planner in self._planners.values():
            planner.deaf(time.time())

    # what is heard

    def _heard(self, event: RequestEvent, received: Received) -> None:
        planner = self._planners.get(event.model)
        if planner is None:  # nobody serves it: clients may ask for any name
            return
        if event.phase == "accepted":
            planner.accepted(event.prompt_tokens or 0, time.time())
        else:
            planner.ended(event, time.time())

    def _reported(self, report: EngineReport, received: Received) -> None:
        registration = self._engines.get(report.engine_id)
        if registration is None or registration.incarnation != report.incarnation:
            return
        self._states[report.engine_id] = report.state
        self._num_open[report.engine_id] = report.gauges.running + report.gauges.waiting
        for model in registration.models:
            self._planners[model].reported(report, time.time())

    def _registered(self, key: str, registration: EngineRegistration) -> None:
        self._ids[key] = registration.engine_id
        self._engines[registration.engine_id] = registration
        for model in registration.models:
            if model not in self._planners:
                self._planners[model] = self._made(model)
            self._planners[model].registered(registration)

    def _gone(self, key: str) -> None:
        engine_id = self._ids.pop(key, key)
        registration = self._engines.pop(engine_id, None)
        self._num_open.pop(engine_id, None)
        self._states.pop(engine_id, None)
        for model in registration.models if registration is not None else ():
            self._planners[model].gone(engine_id)

    def _ready(self, model: str) -> dict[EngineRole, int]:
        """Return how many engines of a model have said that they are ready, by role."""
        return dict(
            Counter(
                registration.role
                for engine_id, registration in self._engines.items()
                if model in registration.models and self._states.get(engine_id) == "ready"
            )
        )

    # what is wanted

    async def _plan_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.plan_every_s)
            if not self._bus.is_connected:  # nothing is heard, which does not mean that nothing comes
                continue
            for model, planner in list(self._planners.items()):
                try:
                    await self._forecast(model, planner)
                    await self._plan(model, planner)
                except Exception:
                    self._metrics.failures.labels("plan").inc()
                    log.exception("planning_failed", model=model)

    async def _forecast(self, model: str, planner: Planner) -> None:
        """Look ahead once an hour has been added, in a thread: it takes a while. Without a forecast, go on without."""
        hours = planner.hours
        if not self._can_forecast or self._forecast_from.get(model) == hours:
            return
        self._forecast_from[model] = hours
        expected: list[float] | None = None
        try:
            expected = await asyncio.to_thread(next_hours, hours)
        except Unavailable as error:
            self._can_forecast = False
            log.warning("no_forecast", reason=error.message)
        except Exception:  # of whatever the numbers of an hour do to a fit
            log.exception("forecast_failed", model=model)
        planner.forecasted(expected)

    async def _plan(self, model: str, planner: Planner) -> None:
        plan = planner.plan(time.time())
        if plan is None:
            return
        ready = self._ready(model)
        plan = self._held(plan).model_copy(update={"ready": ready, "engines_now": sum(ready.values())})
        self._metrics.planned(plan)
        try:
            await self._plans.put(plan)
        except SageError as error:
            self._metrics.failures.labels("keep").inc()
            log.warning("plan_not_kept", model=model, error=error.message)
        await self._follow(plan)

    def _held(self, plan: FleetPlan) -> FleetPlan:
        """Return what there is, or was wanted before, instead of fewer engines while we have not listened for long."""
        if time.time() >= self._gives_up_from:
            return plan
        there = [self._running(plan.model), *filter(None, [self._plans.newest.get(plan.model)])]
        former = max(there, key=lambda fleet: fleet.count)
        if former.count <= plan.count:
            return plan
        most = self._config.most
        groups = [group.model_copy(update={"count": min(group.count, most)}) for group in former.groups]
        reason = f"as before, until it has listened for {self._config.hold_s:g} s; {plan.reason}"
        return plan.model_copy(update={"groups": groups, "price_per_hour": former.price_per_hour, "reason": reason})

    def _running(self, model: str) -> FleetPlan:
        """Describe the engines of a model that are there to stay."""
        engines = [one for one in self._engines.values() if model in one.models and one.state == "ready"]
        counts = Counter((engine.kind, engine.role) for engine in engines)
        groups = [EngineGroup(kind=kind, role=role, count=count) for (kind, role), count in counts.items()]
        price = sum(engine.price_per_hour for engine in engines)
        return FleetPlan(model=model, time_s=0.0, groups=groups, price_per_hour=price)

    async def _follow(self, plan: FleetPlan) -> None:
        if self._scaler is None:
            return
        try:
            changes = await follow(plan, self._scaler, self._num_open)
        except SageError as error:
            self._metrics.failures.labels("scale").inc()
            log.warning("not_scaled", model=plan.model, error=error.message)
            return
        for role, (before, after) in changes.items():
            self._metrics.followed(plan.model, role, before, after)
            log.info("scaled", model=plan.model, role=role, before=before, after=after, reason=plan.reason)
