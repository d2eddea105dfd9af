"""The gateway as a whole: accepts requests and keeps them going until they end."""

import asyncio
import os
import secrets
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import structlog
from opentelemetry.trace import Span
from prometheus_client import CollectorRegistry

from sagellm_common.bus import Bus, MicroService
from sagellm_common.contracts.generate import GenerateRequest
from sagellm_common.contracts.scheduling import GatewayHeartbeat, Submit
from sagellm_common.errors import Cancelled, ResourceExhausted, SageError, Unavailable
from sagellm_gateway.core import actions as act
from sagellm_gateway.core import events as ev
from sagellm_gateway.core.config import CoreConfig
from sagellm_gateway.core.lifecycle import GatewayCore
from sagellm_gateway.core.request import FOREVER, Request
from sagellm_gateway.edge.directory import EngineDirectory, ModelSource
from sagellm_gateway.edge.executor import Executor
from sagellm_gateway.edge.figures import phase_event
from sagellm_gateway.edge.inbound import Inbound
from sagellm_gateway.edge.models import TextModels
from sagellm_gateway.edge.record import Record, end_span, start_span
from sagellm_gateway.edge.tasks import Tasks
from sagellm_gateway.generation.api import Generation, ServedModel
from sagellm_gateway.generation.preparation import Prepared, end_token_ids, is_short, pipelines, prepare
from sagellm_gateway.generation.stream import TokenStream
from sagellm_gateway.metrics import GatewayMetrics
from sagellm_gateway.settings import GatewaySettings
from sagellm_gateway.text.model import TextModel

log = structlog.get_logger(__name__)
TICK_S = 0.05
HEARTBEAT_S = 1.0


class GatewayService:
    """Implements `Gateway`; owns the bus edge, the core and the text models of one process."""

    def __init__(self, bus: Bus, settings: GatewaySettings) -> None:
        self.settings = settings
        self.bus = bus
        self.incarnation = secrets.token_hex(8)
        self._draining = False
        self._tasks = Tasks()
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="text")
        self._core = GatewayCore(
            CoreConfig(engine_timeout_s=settings.engine_timeout_s, slow_client_timeout_s=settings.slow_client_timeout_s)
        )
        self.metrics = GatewayMetrics(self._core.counts, bus.drops)
        self._executor = Executor(bus, self._core, settings.gateway_id, self._tasks, self._on_closed)
        self._texts = TextModels(bus, self._threads)
        self._directory = EngineDirectory(settings.default_model, self._on_model)
        self._inbound = Inbound(bus, settings.gateway_id, self._core, self._executor, self._directory, self._tasks)
        self._unread: set[TokenStream] = set()
        self._num_preparing = 0
        self._bus_up_at: float | None = None
        self._micro: MicroService | None = None

    async def start(self) -> None:
        """Subscribe, learn leader and engines, begin to send heartbeats."""
        self._watch_bus()
        await self._inbound.start()
        self._tasks.spawn(self._tick())
        self._tasks.spawn(self._beat())

    async def announce(self) -> None:
        """Answer discovery on the bus: from now on the gateway serves."""
        self._micro = await MicroService.start(
            self.bus,
            "gateway",
            "takes requests over HTTP and NATS and streams tokens back",
            {"gateway_id": self.settings.gateway_id, "pid": str(os.getpid())},
        )
        await self.bus.flush()

    async def drain(self) -> None:
        """Refuse what is new, let what is open finish within `drain_timeout_s`, then cancel the rest."""
        self._draining = True
        deadline = time.monotonic() + self.settings.drain_timeout_s
        while (self._core.requests or self._unread) and time.monotonic() < deadline:
            await asyncio.sleep(TICK_S)
        for request_id in list(self._core.requests):
            self._executor.feed(ev.CancelAsked(request_id, Unavailable("the gateway is going down")))
        await asyncio.sleep(0)

    async def stop(self) -> None:
        """Let go of the bus and of all threads, however far the start came; `drain` comes first."""
        await self._inbound.stop()
        if self._micro is not None:
            await self._micro.stop()
        await self._texts.close()
        await self._tasks.close()
        self._threads.shutdown(wait=True)

    # the Gateway protocol

    @property
    def registry(self) -> CollectorRegistry:
        return self.metrics.exposed

    @property
    def draining(self) -> bool:
        return self._draining

    def models(self) -> list[ServedModel]:
        return self._directory.models()

    def ready(self) -> tuple[bool, str]:
        if self._draining:
            return False, "the gateway is draining"
        if not self.bus.is_connected:
            return False, "the bus is not connected"
        if self._core.leader is None:
            return False, "no scheduler leads"
        if not self._directory.has_ready_engine:
            return False, "no engine is ready"
        return True, "ready"

    async def submit(self, request: GenerateRequest) -> Generation:
        self._check_open()
        model = self._directory.find(request.model)
        self._num_preparing += 1
        try:
            texts = await self._texts.get(self._directory.source(model.id))
            prepared = await self._prepare(request, texts, model.max_model_len)
        finally:
            self._num_preparing -= 1
        self._check_open()
        stream = TokenStream(
            request_id=uuid.uuid4().hex,
            model=model.id,
            created=int(time.time()),
            prompt_tokens=len(prepared.prompt_token_ids),
            pipelines=pipelines(request, texts),
            owner=self,
        )
        record = self._open(request, prepared, stream, end_token_ids(prepared.sampling, texts))
        try:
            await record.placed
        except asyncio.CancelledError:
            self._unread.discard(stream)
            self.abandoned(stream.request_id, Cancelled("the client went away"))
            raise
        if stream.error is not None:
            self._unread.discard(stream)
            raise stream.error
        return stream

    def _check_open(self) -> None:
        if self._draining:
            raise Unavailable("this gateway is going down; try another", retry_after_s=1.0)
        if len(self._core.requests) + self._num_preparing >= self.settings.max_open_requests:
            raise ResourceExhausted("too many requests are open; try again later", retry_after_s=1.0)

    async def _prepare(self, request: GenerateRequest, texts: TextModel, max_model_len: int) -> Prepared:
        default = self.settings.default_max_tokens
        if is_short(request):
            return prepare(request, texts, max_model_len, default)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, prepare, request, texts, max_model_len, default)

    def _open(self, request: GenerateRequest, prepared: Prepared, stream: TokenStream, ends: frozenset[int]) -> Record:
        """Open a prepared request and give it to the core."""
        now = time.monotonic()
        submit = self._describe(request, prepared, stream)
        deadline_ms = request.slo.deadline_ms
        opened = Request(
            submit=submit,
            prompt_token_ids=prepared.prompt_token_ids,
            sampling=prepared.sampling,
            sink=stream,
            accepted_at=now,
            deadline_at=FOREVER if deadline_ms is None else now + deadline_ms / 1000,
            end_token_ids=ends,
        )
        span = start_span(request, submit.request_id, stream.model, stream.prompt_tokens)
        record = Record(opened, stream, span, asyncio.get_running_loop().create_future())
        stream.on_end = lambda: self._unread.discard(stream)
        self._unread.add(stream)
        self._executor.records[submit.request_id] = record
        self.metrics.open.inc()
        self._log_accepted(request, submit, span)
        self._executor.announce(phase_event(opened, "accepted"))
        self._executor.feed(ev.Accepted(opened))
        return record

    def _describe(self, request: GenerateRequest, prepared: Prepared, stream: TokenStream) -> Submit:
        return Submit(
            request_id=stream.request_id,
            gateway_id=self.settings.gateway_id,
            model=stream.model,
            prompt_tokens=len(prepared.prompt_token_ids),
            max_tokens=prepared.sampling.max_tokens or 0,
            num_choices=prepared.sampling.n,
            block_hashes=prepared.block_hashes,
            prefix_hash=prepared.prefix_hash,
            slo=request.slo,
            priority=request.priority,
            cost_budget=request.cost_budget,
            user=request.user,
            session=request.session,
        )

    def _log_accepted(self, request: GenerateRequest, submit: Submit, span: Span) -> None:
        fields: dict[str, object] = {"request_id": submit.request_id, "model": submit.model}
        if request.client_request_id is not None:
            fields["client_request_id"] = request.client_request_id
        if self.settings.log_prompts:
            fields["prompt"] = request.prompt if request.messages is None else request.messages
        log.debug("request_accepted", prompt_tokens=submit.prompt_tokens, **fields)

    # what clients' streams tell (the protocol `Owner`)

    def stopped(self, request_id: str, choice: int) -> None:
        self._executor.feed(ev.Stopped(request_id, choice))

    def drained(self, request_id: str) -> None:
        self._executor.feed(ev.Drained(request_id))

    def abandoned(self, request_id: str, error: SageError) -> None:
        self._executor.feed(ev.CancelAsked(request_id, error))

    # what follows from the core and the directory

    def _on_closed(self, record: Record, action: act.Closed) -> None:
        submit, outcome = record.request.submit, action.outcome
        self.metrics.open.dec()
        self.metrics.ended(submit.model, submit.prompt_tokens, submit.slo, outcome)
        end_span(record.span, submit.model, outcome)
        if outcome.error is not None:
            log.info("request_ended", request_id=submit.request_id, phase=outcome.phase, **outcome.error.to_dict())

    def _on_model(self, source: ModelSource) -> None:
        self._tasks.spawn(self._texts.prefetch(source))

    # time

    def _watch_bus(self) -> None:
        """Tell the core when the connection was lost or made anew, even if both happened between two looks."""
        connected_at = self.bus.connected_at
        if connected_at == self._bus_up_at:
            return
        if self._bus_up_at is not None:
            self._executor.feed(ev.BusChanged(False))
        self._bus_up_at = connected_at
        if connected_at is not None:
            self._executor.feed(ev.BusChanged(True))

    async def _tick(self) -> None:
        while True:
            try:
                self._watch_bus()
                self._executor.run(self._core.tick(time.monotonic()))
            except Exception:  # without ticks every request would wait for ever
                log.exception("tick_failed")
            await asyncio.sleep(TICK_S)

    async def _beat(self) -> None:
        subject = self.bus.settings.subjects.gateway_heartbeat(self.settings.gateway_id)
        while True:
            beat = GatewayHeartbeat(
                gateway_id=self.settings.gateway_id,
                incarnation=self.incarnation,
                open_requests=len(self._core.requests),
                draining=self._draining,
            )
            try:
                await self.bus.publish(subject, beat)
            except SageError as error:
                log.info("heartbeat_not_sent", code=error.code)
            await asyncio.sleep(HEARTBEAT_S)
