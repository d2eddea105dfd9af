"""One scheduler on the bus: wires its core, the lease, and every subscription."""

import asyncio
import gc
import os
import time

import structlog

from sagellm_common.bus import Bucket, Bus, MicroService, Received
from sagellm_common.bus.buckets import Follower
from sagellm_common.bus.restoring import after_reconnect
from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.contracts.decisions import DecisionRecord, ExplainRequest
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.events import END_PHASES, RequestEvent
from sagellm_common.contracts.kv import KvEvents
from sagellm_common.contracts.policy import Leader, Policy, PolicyChange
from sagellm_common.contracts.reports import EngineReport
from sagellm_common.contracts.scheduling import GatewayHeartbeat, Submit, SubmitReply
from sagellm_common.errors import SageError
from sagellm_common.subjects import SCHEDULER_QUEUE
from sagellm_common.telemetry import metrics as metrics_server
from sagellm_scheduler.core import events
from sagellm_scheduler.leadership.holder import LeaseHolder
from sagellm_scheduler.leadership.lease import LeaseConfig
from sagellm_scheduler.metrics import SchedulerMetrics
from sagellm_scheduler.service.archive import Archive
from sagellm_scheduler.service.conductor import Conductor
from sagellm_scheduler.service.live_policy import LivePolicy
from sagellm_scheduler.service.outbox import Outbox
from sagellm_scheduler.settings import SchedulerSettings

log = structlog.get_logger(__name__)


async def serve(settings: SchedulerSettings, stop: asyncio.Event) -> None:
    """Run one scheduler until `stop` is set; raises Unavailable if the bus cannot be had."""
    metrics = SchedulerMetrics()
    port = metrics_server.serve(metrics.registry, settings.metrics_port)
    try:
        bus = await Bus.connect(settings, f"scheduler {settings.scheduler_id}")
        try:
            scheduler = Scheduler(settings, bus, metrics)
            await scheduler.start()
            _keep_collections_short()
            await stop.wait()
            await scheduler.stop()
        finally:
            await bus.close()
    finally:
        if port is not None:
            port.close()


def _keep_collections_short() -> None:
    """Take what the start has made out of garbage collection, which else stops decisions for up to 0.1 s."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


class Scheduler:
    """A scheduler on an open bus. Engines are known before it tries to lead, so that its first decision is sound."""

    def __init__(self, settings: SchedulerSettings, bus: Bus, metrics: SchedulerMetrics) -> None:
        self._settings, self._bus, self._metrics = settings, bus, metrics
        self._subjects = settings.subjects
        self._engine_ids: dict[str, str] = {}
        self._engines: Follower[EngineRegistration] | None = None

    async def start(self) -> None:
        """Open what it needs, subscribe, announce itself, try to lead."""
        lease, engines, policies = await self._open_buckets()
        self._archive = await Archive.open(self._bus)
        self._outbox = Outbox(self._bus, self._archive)
        self._policy = LivePolicy(
            self._settings, policies, self._open_policies, lambda change: self._conductor.feed(change)
        )
        after_reconnect(self._bus, policies.name, self._policy.restore)
        self._conductor = Conductor(self._settings, self._bus, self._outbox, self._metrics, self._policy)
        leader = Leader(scheduler_id=self._settings.scheduler_id, started_at=time.time())
        self._lease = LeaseHolder(lease, self._open_lease, leader, self._gained, self._lost)
        self._outbox.start()
        await self._subscribe()
        self._policies = await policies.follow(Policy, self._policy.follow, self._policy.gone)
        self._engines = await engines.follow(EngineRegistration, self._registered, self._gone)
        await self._announce()
        self._conductor.start(self._lease.is_valid)
        self._lease.start()
        log.info("scheduler_started", queue=self._policy.current.queue, router=self._policy.current.router)

    async def stop(self) -> None:
        """Give the lease back, send what waits, withdraw from the bus."""
        await self._lease.stop()
        await self._conductor.stop()
        await self._outbox.stop()
        if self._engines is not None:
            await self._engines.stop()
        await self._policies.stop()
        await self._micro.stop()

    async def _open_buckets(self) -> tuple[Bucket, Bucket, Bucket]:
        name = self._subjects.bucket
        return (
            await self._open_lease(),
            await self._bus.bucket(name("engines"), ttl_s=ENGINES_TTL_S),
            await self._open_policies(),
        )

    async def _open_lease(self) -> Bucket:
        return await self._bus.bucket(self._subjects.bucket("leader"), ttl_s=LeaseConfig().ttl_s)

    async def _open_policies(self) -> Bucket:
        return await self._bus.bucket(self._subjects.bucket("policy"))

    async def _subscribe(self) -> None:
        bus, subjects = self._bus, self._subjects
        await bus.serve(subjects.submit(self._settings.scheduler_id), Submit, self._submitted)
        await bus.subscribe(subjects.engine_metrics("*"), EngineReport, self._reported)
        await bus.subscribe(subjects.kv("*"), KvEvents, self._cache_changed)
        await bus.subscribe(subjects.gateway_heartbeat("*"), GatewayHeartbeat, self._heartbeat)
        for phase in sorted(END_PHASES):
            await bus.subscribe(subjects.request_event(phase), RequestEvent, self._ended)
        await bus.flush()

    async def _announce(self) -> None:
        metadata = {"id": self._settings.scheduler_id, "pid": str(os.getpid()), "host": self._settings.host_name}
        self._micro = await MicroService.start(self._bus, "scheduler", "admits, orders and places requests", metadata)
        await self._micro.add_endpoint(
            "explain", self._subjects.explain, ExplainRequest, self._explain, queue=SCHEDULER_QUEUE
        )
        await self._micro.add_endpoint(
            "policy", self._subjects.policy, PolicyChange, self._policy.handle, queue=SCHEDULER_QUEUE
        )
        await self._bus.flush()

    async def _explain(self, request: ExplainRequest, received: Received) -> DecisionRecord:
        return await self._archive.find(request.request_id)

    # messages become events

    async def _submitted(self, submit: Submit, received: Received) -> SubmitReply:
        """Have a submit answered; look again first for a model that no engine is known to serve: it may be that new."""
        if self._engines is not None and not self._conductor.serves(submit.model):
            try:
                await self._engines.resync()
            except SageError as error:
                log.warning("engines_unreadable", error=error.message)
        return await self._conductor.submit(submit, received)

    def _reported(self, report: EngineReport, received: Received) -> None:
        self._conductor.feed(events.EngineReported(report))

    def _cache_changed(self, changes: KvEvents, received: Received) -> None:
        self._conductor.feed(events.CacheChanged(changes))

    def _heartbeat(self, heartbeat: GatewayHeartbeat, received: Received) -> None:
        self._conductor.feed(events.GatewaySeen(heartbeat.gateway_id, heartbeat.incarnation))

    def _ended(self, event: RequestEvent, received: Received) -> None:
        self._conductor.feed(events.RequestEnded(event))

    def _registered(self, key: str, registration: EngineRegistration) -> None:
        self._engine_ids[key] = registration.engine_id
        self._conductor.feed(events.EngineRegistered(registration))

    def _gone(self, key: str) -> None:
        engine_id = self._engine_ids.pop(key, None)
        if engine_id is not None:
            self._conductor.feed(events.EngineGone(engine_id))

    def _gained(self, leader_epoch: LeaderEpoch) -> None:
        log.info("leadership_gained", leader_epoch=leader_epoch)
        self._archive.forget()
        self._conductor.feed(events.LeadershipGained(leader_epoch))

    def _lost(self, reason: str) -> None:
        log.warning("leadership_lost", reason=reason)
        self._archive.forget()
        self._conductor.feed(events.LeadershipLost())
