"""The engine's edge: messages become calls of the ledger and the step loop, what a step made becomes frames."""

import asyncio
import time
from typing import Literal

import structlog

from sagellm_common.bus import Bus, MicroService, Received
from sagellm_common.contracts.dispatch import (
    Ack,
    ControlReply,
    ControlRequest,
    Dispatch,
    DispatchReply,
    ResendRequest,
)
from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.generate import CancelReply, CancelRequest
from sagellm_common.contracts.scheduling import GatewayHeartbeat
from sagellm_common.errors import DeadlineExceeded, NotFound, SageError, Unavailable
from sagellm_engine.core.types import ModelInfo, StepOutput
from sagellm_engine.core.validation import validate_request
from sagellm_engine.service.assignments import Assignments
from sagellm_engine.service.frames import FrameSender, fitting
from sagellm_engine.service.gateways import Gateways
from sagellm_engine.service.ledger import Ledger, Recorded
from sagellm_engine.service.metrics import EngineMetrics
from sagellm_engine.service.reports import Reporter
from sagellm_engine.service.requests import engine_request, first_indexes
from sagellm_engine.service.spans import RequestTrace
from sagellm_engine.service.steps import Loaded, StepDone, StepThread

log = structlog.get_logger(__name__)
TICK_S = 0.05
CONFIRM_S = 1.0

State = Literal["ready", "draining", "stopped"]


class EngineEdge:
    """One engine on the bus. All methods run on the event loop.

    `identity` is the registration of this incarnation; the edge reads it and never changes it. `steps` is the running
    step loop, and `made` is where it puts what it makes.
    """

    def __init__(
        self,
        bus: Bus,
        identity: EngineRegistration,
        loaded: Loaded,
        steps: StepThread,
        made: asyncio.Queue[StepDone],
        metrics: EngineMetrics,
        *,
        max_open_choices: int,
        gateway_timeout_s: float,
    ) -> None:
        self._bus, self._identity, self._steps, self._metrics = bus, identity, steps, metrics
        self._info: ModelInfo = loaded.info
        self.state: State = "ready"
        self.ledger = Ledger(max_open_choices)
        self._assignments = Assignments()
        self._gateways = Gateways(gateway_timeout_s)
        self._sender = FrameSender(bus, identity.engine_id, identity.incarnation)
        self._reporter = Reporter(identity.engine_id, identity.incarnation, identity.heartbeat_s, loaded.gauges)
        self._made = made
        self.state_changed = asyncio.Event()

    async def open(self) -> MicroService:
        """Subscribe to everything; when this returns the server routes to this engine."""
        bus, subjects, engine_id = self._bus, self._bus.settings.subjects, self._identity.engine_id
        await bus.serve(subjects.engine_dispatch(engine_id), Dispatch, self.dispatch)
        await bus.serve(subjects.engine_cancel(engine_id), CancelRequest, self.cancel)
        await bus.serve(subjects.engine_resend(engine_id), ResendRequest, self.resend)
        await bus.subscribe(subjects.engine_ack(engine_id), Ack, self.ack)
        await bus.subscribe(subjects.gateway_heartbeat("*"), GatewayHeartbeat, self.gateway_heartbeat)
        identity = self._identity
        metadata = {
            "id": engine_id,
            "pid": str(identity.pid),
            "host": identity.host,
            "models": ",".join(identity.models),
            "backend": identity.backend,
            "role": identity.role,
        }
        service = await MicroService.start(bus, "engine", "Computes tokens.", metadata)
        await service.add_endpoint(
            "control", subjects.engine_control(engine_id), ControlRequest, self.control, queue="engines"
        )
        await bus.flush()
        return service

    # what others ask

    async def dispatch(self, dispatch: Dispatch, received: Received) -> DispatchReply:
        """Take a request, or say why not."""
        now = time.monotonic()
        self._assignments.seen(dispatch.leader_epoch, dispatch.assignment_number)
        self._gateways.seen(dispatch.gateway_id, now)
        if dispatch.incarnation != self._identity.incarnation:
            raise Unavailable("the engine has been restarted since this request was assigned to it")
        key = dispatch.request_id, dispatch.epoch
        if not self.ledger.check(key, now):
            return DispatchReply(duplicate=True)
        if self.state != "ready":
            raise Unavailable(f"the engine is {self.state} and takes no new requests")
        if dispatch.model not in self._identity.models:
            raise NotFound(f"this engine does not serve {dispatch.model!r}", param="model")
        request = engine_request(dispatch, now)
        validate_request(request, self._info)
        if request.deadline is not None and request.deadline <= now:
            raise DeadlineExceeded("the deadline was over before the engine got the request")
        trace = RequestTrace(dispatch.model)
        self.ledger.accept(
            key,
            dispatch.gateway_id,
            first_indexes(request),
            now,
            num_prompt_tokens=len(dispatch.prompt_token_ids),
            trace=trace,
        )
        self._steps.submit(request)
        return DispatchReply()

    async def cancel(self, request: CancelRequest, received: Received) -> CancelReply:
        """End a request, or refuse it when it comes."""
        key = self.ledger.cancel(request.request_id, request.epoch, time.monotonic())
        if key is not None:
            self._steps.cancel(key)
        return CancelReply(found=key is not None)

    async def resend(self, request: ResendRequest, received: Received) -> TokenItem:
        """Return the tokens of a choice from an index on, as many as fit into a message."""
        item = self.ledger.resend((request.request_id, request.epoch), request.choice, request.from_index)
        return fitting(item, self._bus.max_payload)

    def ack(self, ack: Ack, received: Received) -> None:
        """Forget what a gateway has received to the end."""
        self.ledger.ack(ack.requests, time.monotonic())

    def gateway_heartbeat(self, heartbeat: GatewayHeartbeat, received: Received) -> None:
        """Note that a gateway lives."""
        self._gateways.seen(heartbeat.gateway_id, time.monotonic())

    async def control(self, request: ControlRequest, received: Received) -> ControlReply:
        """Carry out an operator's order."""
        if request.action == "drain":
            self.drain()
        elif request.action == "resume":
            self._resume()
        gauges = self._reporter.gauges
        detail = {
            "requests_open": self.ledger.num_open,
            "requests_held": len(self.ledger),
            "gateways": len(self._gateways),
            "frames_unsent": self._sender.num_unsent,
            "bus_reconnects": self._bus.reconnects,
        }
        return ControlReply(state=self.state, running=gauges.running, waiting=gauges.waiting, detail=detail)

    def drain(self) -> None:
        """Refuse new requests; what runs goes on."""
        if self.state == "ready":
            self.state = "draining"
            self.state_changed.set()

    def _resume(self) -> None:
        if self.state == "draining":
            self.state = "ready"
            self.state_changed.set()

    # what goes out

    async def send_steps(self) -> None:
        """Send what steps made, until cancelled."""
        while True:
            await self._send_step(await self._made.get())

    async def send_rest(self) -> None:
        """Send what was made and not sent yet; the step loop has ended."""
        while not self._made.empty():
            await self._send_step(self._made.get_nowait())

    async def _send_step(self, done: StepDone) -> None:
        now = time.monotonic()
        output = done.output
        recorded = self.ledger.record(output.tokens, now)
        try:
            await self._sender.send(recorded.items)
        finally:
            self._steps.step_sent()
        if output.report.rows:
            self._reporter.add_step(output.report, now)
        if done.gauges is not None:
            self._reporter.gauges = done.gauges
        self._metrics.step(output)
        self._trace(output, recorded)

    def _trace(self, output: StepOutput, recorded: Recorded) -> None:
        for key in output.admitted:
            entry = self.ledger.entry(key)
            if entry is not None:
                entry.trace.admitted(output.report.duration_s)
        for entry in recorded.started:
            entry.trace.started(entry)
            self._metrics.started(entry)
        for entry in recorded.ended:
            entry.trace.ended(entry)

    async def tick(self) -> None:
        """Report, forget what is old and look after gateways, until cancelled."""
        while True:
            now = time.monotonic()
            await self._report(now)
            self.ledger.expire(now)
            await self._drop_lost_gateways(now)
            await asyncio.sleep(TICK_S)

    async def _report(self, now: float) -> None:
        reporter = self._reporter
        if not reporter.due(now) or not self._bus.is_connected:
            return
        self._metrics.gauges(reporter.gauges)
        if reporter.heartbeat_due(now):
            reports = reporter.heartbeat(now, self.state, self._assignments, self.ledger.progress())
        else:
            reports = [reporter.report(now, self.state, self._assignments)]
        subject = self._bus.settings.subjects.engine_metrics(self._identity.engine_id)
        for report in reports:
            try:
                await self._bus.publish(subject, report)
            except SageError as error:
                log.warning("report_not_sent", error=error.message)

    async def say_stopped(self) -> None:
        """Tell everybody that this engine is gone, instead of letting them find out."""
        self.state = "stopped"
        if self._bus.is_connected:
            subject = self._bus.settings.subjects.engine_metrics(self._identity.engine_id)
            await self._bus.publish(subject, self._reporter.report(time.monotonic(), self.state, self._assignments))

    async def _drop_lost_gateways(self, now: float) -> None:
        silent = self._gateways.silent(now, self._bus.up_for_s())
        if not silent or not await self._bus_answers():
            return
        for gateway_id in self._gateways.silent(now, self._bus.up_for_s()):
            self._gateways.forget(gateway_id)
            self._sender.forget(gateway_id)
            keys = self.ledger.open_of(gateway_id)
            log.warning("gateway_lost", gateway_id=gateway_id, cancelled=len(keys))
            for key in keys:
                self._steps.cancel(key)

    async def _bus_answers(self) -> bool:
        """Ask the server for a sign of life: a connection may be dead before anybody notices."""
        try:
            async with asyncio.timeout(CONFIRM_S):
                await self._bus.flush()
        except (SageError, TimeoutError):
            return False
        return True
