"""A running engine: its parts, put together and taken apart in order."""

import asyncio
import os
import time
import uuid
from collections.abc import Coroutine
from typing import Any

import structlog

from sagellm_common.bus import Bus, MicroService
from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.errors import Internal, SageError
from sagellm_common.telemetry import metrics as prometheus
from sagellm_common.version import __version__
from sagellm_engine.service.edge import EngineEdge
from sagellm_engine.service.handoffs import Handoffs
from sagellm_engine.service.metrics import EngineMetrics
from sagellm_engine.service.models import ModelSource
from sagellm_engine.service.registration import Registration
from sagellm_engine.service.state import EngineState
from sagellm_engine.service.steps import Loaded, StepDone, StepThread
from sagellm_engine.service.transfer import TransferThread
from sagellm_engine.settings import EngineSettings
from sagellm_engine.transfer.layout import handoff_class

log = structlog.get_logger(__name__)
ACK_WAIT_S = 1.0
POLL_S = 0.02


class RunningEngine:
    """An engine whose model is loaded: its parts, put together and taken apart in order."""

    def __init__(
        self,
        settings: EngineSettings,
        bus: Bus,
        source: ModelSource,
        steps: StepThread,
        made: asyncio.Queue[StepDone],
        loaded: Loaded,
        transfer: TransferThread | None,
    ) -> None:
        self._settings, self._steps, self._transfer = settings, steps, transfer
        self._metrics = EngineMetrics(source.name)
        identity = describe(settings, source, loaded, transfer)
        self._registration = Registration(bus, identity)
        self._state = EngineState(
            identity,
            loaded,
            max_open_choices=settings.max_num_seqs + settings.max_waiting,
            gateway_timeout_s=settings.gateway_timeout_s,
        )
        self._handoffs = None if transfer is None else Handoffs(bus, self._state, steps, transfer, self._metrics)
        self._edge = EngineEdge(bus, self._state, steps, made, self._metrics, self._handoffs)
        self._tasks: list[asyncio.Task[None]] = []
        self._micro: MicroService | None = None
        self._metrics_server: prometheus.MetricsServer | None = None

    async def open(self) -> None:
        """Subscribe, then register: who finds the engine can reach it."""
        self._metrics_server = prometheus.serve(self._metrics.registry, self._settings.metrics_port)
        self._micro = await self._edge.handlers.open()
        await self._registration.start()
        edge = self._edge
        parts = (edge.sending.send_steps(), edge.tick(), self._registration.keep(), self._follow_state())
        self._tasks = [asyncio.create_task(part) for part in parts]
        entry = self._registration.entry
        log.info("engine_ready", engine_id=entry.engine_id, models=entry.models, role=entry.role)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until told to stop, then finish what runs; raises Internal if a part of the engine dies."""
        await self._until(stop.wait())
        self._state.drain()
        await self._until(self._drained())

    async def leave(self) -> None:
        """Deregister, end the step loop, send the last frames, and say that the engine is gone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._registration.remove()
        if self._transfer is not None:
            await self._transfer.stop()  # before the memory that it reads and writes goes
        await self._steps.stop()
        try:
            await self._edge.sending.send_rest()
            await self._edge.sending.say_stopped()
            if self._micro is not None:
                await self._micro.stop()
        except SageError as error:
            log.warning("last_words_lost", error=error.message)
        if self._metrics_server is not None:
            self._metrics_server.close()

    async def _until(self, event: Coroutine[None, None, object]) -> None:
        """Return when `event` is done; raise if a part of the engine ends before that."""
        done = asyncio.ensure_future(event)
        watched: list[asyncio.Future[Any]] = [done, self._steps.failed, *self._tasks]
        try:
            await asyncio.wait(watched, return_when="FIRST_COMPLETED")
        finally:
            done.cancel()
        if self._steps.failed.done():
            raise Internal(f"the step loop has ended: {self._steps.failed.result()!r}")
        for task in self._tasks:
            if task.done():
                error = task.exception()
                raise error if isinstance(error, SageError) else Internal(f"a part of the engine has ended: {error!r}")

    async def _drained(self) -> None:
        """Return when every request has ended and the gateways have had time to ask for what they missed."""
        ledger = self._state.ledger
        end = time.monotonic() + self._settings.drain_timeout_s
        while self._num_open() and time.monotonic() < end:
            await asyncio.sleep(POLL_S)
        if self._num_open():
            log.warning("drain_timed_out", requests_left=self._num_open())
        end = min(end, time.monotonic() + ACK_WAIT_S)
        while len(ledger) and time.monotonic() < end:
            await asyncio.sleep(POLL_S)

    def _num_open(self) -> int:
        """Return the requests that have not ended, those that are prefilled for other engines included."""
        return self._state.ledger.num_open + (0 if self._handoffs is None else self._handoffs.num_open)

    async def _follow_state(self) -> None:
        """Keep the state in the registration current."""
        while True:
            await self._state.phase_changed.wait()
            self._state.phase_changed.clear()
            state = "ready" if self._state.phase == "ready" else "draining"
            self._registration.change(self._registration.entry.model_copy(update={"state": state}))


def describe(
    settings: EngineSettings, source: ModelSource, loaded: Loaded, transfer: TransferThread | None
) -> EngineRegistration:
    """Say what this engine is; a new incarnation with each call."""
    info, kv = loaded.info, None if transfer is None else transfer.layout
    return EngineRegistration(
        engine_id=settings.engine_id,
        incarnation=uuid.uuid4().hex,
        role=settings.engine_role,
        models=(source.name,),
        model_id=source.model_id,
        model_path=str(source.path) if source.path and not source.model_id else "",
        backend=info.backend,
        kind=f"{info.kind}/{source.identity}",
        max_model_len=info.max_model_len,
        page_size=info.page_size,
        num_pages=info.num_pages,
        max_num_seqs=settings.max_num_seqs,
        max_batch_tokens=loaded.max_batch_tokens,
        heartbeat_s=settings.heartbeat_s,
        host=settings.host_name,
        pid=os.getpid(),
        version=__version__,
        started_at=time.time(),
        price_per_hour=settings.price_per_hour,
        handoff="" if kv is None or transfer is None else handoff_class(kv, transfer.name),
        kv_bytes_per_token=0 if kv is None else kv.num_planes * kv.page_bytes // kv.page_size,
        benchmark=tuple(
            (s.duration_s, s.rows, s.prefill_tokens, s.decode_seqs, s.context_tokens, s.chunk_x_context)
            for s in loaded.benchmark
        ),
    )
