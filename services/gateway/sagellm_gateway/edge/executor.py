"""Carries out what the core decides: each action is a message, its answer an event."""

import asyncio
import time
from collections.abc import Callable

import structlog

from sagellm_common.bus import Bus
from sagellm_common.contracts.dispatch import Ack, DispatchReply
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.generate import CancelReply, CancelRequest
from sagellm_common.contracts.scheduling import SubmitReply
from sagellm_common.errors import SageError
from sagellm_gateway.core import actions as act
from sagellm_gateway.core import events as ev
from sagellm_gateway.core.lifecycle import GatewayCore
from sagellm_gateway.edge.figures import end_event, phase_event
from sagellm_gateway.edge.record import Record
from sagellm_gateway.edge.tasks import Tasks

log = structlog.get_logger(__name__)
REQUEST_TIMEOUT_S = 2.0
ACK_DELAY_S = 0.02


class Executor:
    """Between core and bus. Everything runs on one event loop; `feed` may be called from any of its callbacks."""

    def __init__(
        self,
        bus: Bus,
        core: GatewayCore,
        gateway_id: str,
        tasks: Tasks,
        on_closed: Callable[[Record, act.Closed], None],
    ) -> None:
        self._bus = bus
        self._core = core
        self._gateway_id = gateway_id
        self._tasks = tasks
        self._on_closed = on_closed
        self._subjects = bus.settings.subjects
        self._acks: dict[str, list[tuple[str, int]]] = {}
        self.records: dict[str, Record] = {}

    def feed(self, event: ev.Event) -> None:
        """Give the core an event and carry out what follows."""
        self.run(self._core.handle(event, time.monotonic()))

    def run(self, actions: list[act.Action]) -> None:
        """Carry out actions in order."""
        for action in actions:
            match action:
                case act.SendSubmit():
                    self._tasks.spawn(self._submit(action))
                case act.SendDispatch():
                    self._tasks.spawn(self._dispatch(action))
                case act.SendPrefill():
                    self._tasks.spawn(self._prefill(action))
                case act.SendAbort():
                    self._tasks.spawn(self._abort(action))
                case act.SendCancel():
                    self._tasks.spawn(self._cancel(action))
                case act.SendResend():
                    self._tasks.spawn(self._resend(action))
                case act.SendAck():
                    self._ack(action)
                case act.Placed():
                    self._placed(action.request.request_id)
                case act.FirstToken():
                    self._first_token(action)
                case act.Migrated():
                    self._migrated(action)
                case act.Closed():
                    self._closed(action)

    # requests to others, each answered by one event

    async def _submit(self, action: act.SendSubmit) -> None:
        request_id = action.submit.request_id
        try:
            with self._record(request_id).in_trace():
                answer: SubmitReply | SageError = await self._bus.request(
                    self._subjects.submit(action.scheduler_id), action.submit, SubmitReply, timeout_s=REQUEST_TIMEOUT_S
                )
        except SageError as error:
            answer = error
        except KeyError:
            return  # it was closed before this task began
        self.feed(ev.SubmitAnswered(request_id, action.attempt, answer))

    async def _dispatch(self, action: act.SendDispatch) -> None:
        request_id, failure = action.dispatch.request_id, None
        try:
            with self._record(request_id).in_trace():
                subject = self._subjects.engine_dispatch(action.engine_id)
                await self._bus.request(subject, action.dispatch, DispatchReply, timeout_s=action.timeout_s)
        except SageError as error:
            failure = error
        except KeyError:
            return
        self.feed(ev.DispatchAnswered(request_id, action.attempt, failure))

    async def _prefill(self, action: act.SendPrefill) -> None:
        body, failure = action.dispatch, None
        try:
            with self._record(body.request_id).in_trace():
                subject = self._subjects.engine_dispatch(action.engine_id)
                await self._bus.request(subject, body, DispatchReply, timeout_s=action.timeout_s)
        except SageError as error:
            failure = error
        except KeyError:
            return
        self.feed(ev.PrefillAnswered(body.request_id, body.epoch, failure))

    async def _abort(self, action: act.SendAbort) -> None:
        """Tell the engine that decodes; if this is lost, its own patience comes to the same."""
        try:
            await self._bus.publish(self._subjects.engine_lease(action.engine_id, "abort"), action.abort)
        except SageError as error:
            log.info("abort_not_sent", engine_id=action.engine_id, code=error.code)

    async def _resend(self, action: act.SendResend) -> None:
        resend = action.resend
        try:
            subject = self._subjects.engine_resend(action.engine_id)
            answer: TokenItem | SageError = await self._bus.request(
                subject, resend, TokenItem, timeout_s=REQUEST_TIMEOUT_S
            )
        except SageError as error:
            answer = error
        self.feed(ev.Resent(resend.request_id, resend.epoch, resend.choice, answer))

    async def _cancel(self, action: act.SendCancel) -> None:
        """Cancel at the engine; one that is lost is repaired when the engine's heartbeat still names the request."""
        cancel = CancelRequest(request_id=action.request_id, epoch=action.epoch, reason=action.reason)
        try:
            subject = self._subjects.engine_cancel(action.engine_id)
            await self._bus.request(subject, cancel, CancelReply, timeout_s=REQUEST_TIMEOUT_S)
        except SageError as error:
            log.info("cancel_not_answered", engine_id=action.engine_id, request_id=action.request_id, code=error.code)

    def _record(self, request_id: str) -> Record:
        return self.records[request_id]

    # acknowledgements, a few at a time

    def _ack(self, action: act.SendAck) -> None:
        if not self._acks:
            asyncio.get_running_loop().call_later(ACK_DELAY_S, self._flush_acks)
        self._acks.setdefault(action.engine_id, []).append((action.request_id, action.epoch))

    def _flush_acks(self) -> None:
        acks, self._acks = self._acks, {}
        for engine_id, requests in acks.items():
            self._tasks.spawn(self._send_ack(engine_id, Ack(gateway_id=self._gateway_id, requests=requests)))

    async def _send_ack(self, engine_id: str, ack: Ack) -> None:
        try:
            await self._bus.publish(self._subjects.engine_ack(engine_id), ack)
        except SageError as error:
            log.info("ack_not_sent", engine_id=engine_id, code=error.code)

    # what clients and observers are told

    def _placed(self, request_id: str) -> None:
        record = self.records.get(request_id)
        if record is not None and not record.placed.done():
            record.placed.set_result(None)

    def _first_token(self, action: act.FirstToken) -> None:
        record = self.records[action.request.request_id]
        record.span.add_event("first_token", {"sagellm.ttft_ms": action.ttft_s * 1000})
        with record.in_trace():
            self.announce(phase_event(action.request, "first_token", ttft_s=action.ttft_s))

    def _migrated(self, action: act.Migrated) -> None:
        request = action.request
        log.info("request_moved", request_id=request.request_id, epoch=request.epoch, reason=action.reason)
        self.records[request.request_id].span.add_event("migrated", {"reason": action.reason})
        self.announce(phase_event(request, "migrated"))

    def _closed(self, action: act.Closed) -> None:
        record = self.records.pop(action.request.request_id)
        if action.outcome.error is not None:
            record.stream.fail(action.outcome.error)
        if not record.placed.done():
            record.placed.set_result(None)
        self.announce(end_event(action.request, action.outcome))
        self._on_closed(record, action)

    def announce(self, event: RequestEvent) -> None:
        """Publish an event for observers."""
        self._tasks.spawn(self._publish(event))

    async def _publish(self, event: RequestEvent) -> None:
        try:
            await self._bus.publish(self._subjects.request_event(event.phase), event)
        except SageError as error:
            log.info("event_not_published", phase=event.phase, code=error.code)
