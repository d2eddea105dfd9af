"""The planner on the bus: hears what gateways and engines say, keeps plans in the bucket `plans`, drives a scaler."""

import asyncio
import os
import time

import structlog

from sagellm_common.bus import Bucket, Bus, Received
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.events import END_PHASES, RequestEvent
from sagellm_common.contracts.plan import FleetPlan
from sagellm_common.contracts.reports import EngineReport
from sagellm_common.contracts.slo import Slo
from sagellm_common.errors import SageError
from sagellm_common.subjects import encode_token
from sagellm_scheduler.planner.core import Planner, PlannerConfig
from sagellm_scheduler.planner.kubernetes import Cluster, KubernetesScaler
from sagellm_scheduler.planner.offers import read_offers
from sagellm_scheduler.planner.scaler import Scaler, follow
from sagellm_scheduler.planner.seasons import next_hours
from sagellm_scheduler.planner.settings import PlannerSettings

log = structlog.get_logger(__name__)


async def serve(settings: PlannerSettings, stop: asyncio.Event) -> None:
    """Plan until `stop` is set; raises Unavailable if the bus or the cluster cannot be had."""
    scaler = None if settings.scaler == "none" else KubernetesScaler(_cluster(settings))
    bus = await Bus.connect(settings, f"planner {settings.planner_id}")
    try:
        planner = PlannerService(settings, bus, scaler)
        await planner.start()
        await stop.wait()
        await planner.stop()
    finally:
        await bus.close()
        if scaler is not None:
            await scaler.close()


def _cluster(settings: PlannerSettings) -> Cluster:
    if not settings.kubernetes_url:
        return Cluster.inside(os.environ)
    return Cluster(
        url=settings.kubernetes_url,
        namespace=settings.kubernetes_namespace,
        token=settings.kubernetes_token,
        ca=settings.kubernetes_ca,
    )


class PlannerService:
    """One planner for each model that is asked for or served; time is seconds since the epoch."""

    def __init__(self, settings: PlannerSettings, bus: Bus, scaler: Scaler | None) -> None:
        self._settings, self._bus, self._scaler = settings, bus, scaler
        self._config = PlannerConfig(
            slo=Slo(ttft_ms=settings.slo_ttft_ms, itl_ms=settings.slo_itl_ms),
            attainment=settings.plan_attainment,
            least=settings.plan_least,
            most=settings.plan_most,
            lead_s=settings.plan_lead_s,
            hold_s=settings.plan_hold_s,
            apart=settings.plan_roles,
            offers=read_offers(settings.plan_offers) if settings.plan_offers else (),
        )
        self._planners: dict[str, Planner] = {}
        self._registrations: dict[str, EngineRegistration] = {}
        self._num_open: dict[str, int] = {}
        self._forecast_from: dict[str, int] = {}
        self._former: dict[str, FleetPlan] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the plans of before, subscribe, begin to plan."""
        bus, subjects = self._bus, self._bus.settings.subjects
        self._plans: Bucket = await bus.bucket(subjects.bucket("plans"))
        self._former = {plan.model: plan for plan in (await self._plans.read_all(FleetPlan)).values()}
        for phase in ("accepted", *sorted(END_PHASES)):
            await bus.subscribe(subjects.request_event(phase), RequestEvent, self._heard)
        await bus.subscribe(subjects.engine_metrics("*"), EngineReport, self._reported)
        engines = await bus.bucket(subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
        self._engines = await engines.follow(EngineRegistration, self._registered, self._gone)
        self._task = asyncio.create_task(self._plan_for_ever())
        log.info("planner_started", every_s=self._settings.plan_every_s, scaler=self._settings.scaler)

    async def stop(self) -> None:
        """Plan no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._engines.stop()

    def _planner(self, model: str) -> Planner:
        if model not in self._planners:
            self._planners[model] = Planner(self._config, model, self._former.get(model))
        return self._planners[model]

    # what is heard

    def _heard(self, event: RequestEvent, received: Received) -> None:
        if event.phase == "accepted":
            self._planner(event.model).accepted(event.prompt_tokens or 0, time.time())
        else:
            self._planner(event.model).ended(event, time.time())

    def _reported(self, report: EngineReport, received: Received) -> None:
        self._num_open[report.engine_id] = report.gauges.running + report.gauges.waiting
        registration = self._registrations.get(report.engine_id)
        for model in registration.models if registration is not None else ():
            self._planner(model).reported(report, time.time())

    def _registered(self, engine_id: str, registration: EngineRegistration) -> None:
        self._registrations[engine_id] = registration
        for model in registration.models:
            self._planner(model).registered(registration)

    def _gone(self, engine_id: str) -> None:
        registration = self._registrations.pop(engine_id, None)
        self._num_open.pop(engine_id, None)
        for model in registration.models if registration is not None else ():
            self._planner(model).gone(registration.engine_id if registration else engine_id)

    # what is wanted

    async def _plan_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.plan_every_s)
            for model, planner in list(self._planners.items()):
                try:
                    await self._forecast(model, planner)
                    await self._plan(model, planner)
                except SageError as error:
                    log.warning("not_planned", model=model, error=error.message)
                except Exception:
                    log.exception("planning_failed", model=model)

    async def _forecast(self, model: str, planner: Planner) -> None:
        """Look ahead once an hour has been added, in a thread: it takes a while."""
        hours = planner.hours
        if self._forecast_from.get(model) != len(hours):
            self._forecast_from[model] = len(hours)
            planner.forecasted(await asyncio.to_thread(next_hours, hours))

    async def _plan(self, model: str, planner: Planner) -> None:
        plan = planner.plan(time.time())
        if plan is None:
            return
        await self._plans.put(encode_token(model), plan)
        if self._scaler is None:
            return
        for role, (before, after) in (await follow(plan, self._scaler, self._num_open)).items():
            log.info("scaled", model=model, role=role, before=before, after=after, reason=plan.reason)
