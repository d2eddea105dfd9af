"""What an engine sends: frames after each step, reports in between."""

import asyncio
import contextlib
import time

import structlog

from sagellm_common.bus import Bus
from sagellm_common.contracts.reports import EngineReport
from sagellm_common.errors import SageError
from sagellm_engine.core.types import CacheChanges, StepOutput
from sagellm_engine.service.frames import FrameSender
from sagellm_engine.service.handoffs import Handoffs
from sagellm_engine.service.ledger import Recorded
from sagellm_engine.service.metrics import EngineMetrics
from sagellm_engine.service.state import EngineState
from sagellm_engine.service.steps import StepDone, StepThread

log = structlog.get_logger(__name__)


class Sending:
    """Takes what the step loop made out of a queue, in order, and tells gateways and observers."""

    def __init__(
        self,
        bus: Bus,
        state: EngineState,
        steps: StepThread,
        made: asyncio.Queue[StepDone],
        metrics: EngineMetrics,
        handoffs: Handoffs | None,
    ) -> None:
        self._bus, self._state, self._steps, self._made, self._metrics = bus, state, steps, made, metrics
        self._handoffs = handoffs
        self._frames = FrameSender(bus, state.identity.engine_id, state.identity.incarnation)

    async def send_steps(self) -> None:
        """Send what steps make, until cancelled."""
        while True:
            await self._send_step(await self._made.get())

    async def send_rest(self) -> None:
        """Send what was made and not sent yet; the step loop has ended."""
        while not self._made.empty():
            await self._send_step(self._made.get_nowait())

    async def _send_step(self, done: StepDone) -> None:
        now, output, reporter = time.monotonic(), done.output, self._state.reporter
        if self._handoffs is not None:
            self._tell_handoffs(self._handoffs, output)
        recorded = self._state.ledger.record(output.tokens, now)
        try:
            await self._frames.send(recorded.items)
        finally:
            self._steps.step_sent()
        if output.report.rows:
            reporter.add_step(output.report, now)
        if done.gauges is not None:
            reporter.gauges, reporter.mark = done.gauges, done.mark
        if done.cache is not None:
            await self._tell_cache(done.cache)
        self._metrics.step(output)
        self._trace(output, recorded)

    def _tell_handoffs(self, handoffs: Handoffs, output: StepOutput) -> None:
        for held in output.held:
            handoffs.held(held)
        handoffs.failed(output.tokens)

    async def _tell_cache(self, changes: CacheChanges) -> None:
        """Tell schedulers; what does not get through they notice by its number, and ask."""
        message = self._state.prefixes.changed(changes)
        if self._bus.is_connected:
            with contextlib.suppress(SageError):
                await self._bus.publish(self._bus.settings.subjects.kv(message.engine_id), message)

    def _trace(self, output: StepOutput, recorded: Recorded) -> None:
        for key in output.admitted:
            entry = self._state.ledger.entry(key)
            if entry is not None:
                entry.trace.admitted(output.report.duration_s)
        for entry in recorded.started:
            entry.trace.started(entry)
            self._metrics.started(entry)
        for entry in recorded.ended:
            entry.trace.ended(entry)

    async def report(self, now: float) -> None:
        """Publish what is due; nothing is while the bus is down."""
        state, reporter = self._state, self._state.reporter
        if not reporter.due(now) or not self._bus.is_connected:
            return
        self._metrics.gauges(reporter.gauges)
        if not reporter.heartbeat_due(now):
            await self._publish(reporter.report(now, state.phase))
            return
        for report in reporter.heartbeat(now, state.phase, state.ledger.progress()):
            await self._publish(report)

    async def say_stopped(self) -> None:
        """Tell everybody that this engine is gone, instead of letting them find out."""
        self._state.phase = "stopped"
        if self._bus.is_connected:
            await self._publish(self._state.reporter.report(time.monotonic(), self._state.phase))

    def forget_gateway(self, gateway_id: str) -> None:
        """Keep nothing of a gateway that is gone."""
        self._frames.forget(gateway_id)

    async def _publish(self, report: EngineReport) -> None:
        try:
            await self._bus.publish(self._bus.settings.subjects.engine_metrics(report.engine_id), report)
        except SageError as error:
            log.warning("report_not_sent", error=error.message)
