"""What others ask of an engine. Every handler decides at once, on the event loop, and never waits for a step."""

import time

from sagellm_common.bus import Bus, MicroService, Received
from sagellm_common.contracts.dispatch import (
    Ack,
    ControlReply,
    ControlRequest,
    Dispatch,
    DispatchReply,
    ResendRequest,
)
from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.generate import CancelReply, CancelRequest
from sagellm_common.contracts.handoff import LeaseAbort
from sagellm_common.contracts.kv import SnapshotRequest
from sagellm_common.contracts.scheduling import GatewayHeartbeat
from sagellm_common.errors import DeadlineExceeded, NotFound, Unavailable
from sagellm_engine.core.types import EngineRequest, RequestKey
from sagellm_engine.core.validation import validate_request
from sagellm_engine.service.entries import Entry
from sagellm_engine.service.frames import fitting
from sagellm_engine.service.handoffs import Handoffs
from sagellm_engine.service.lease_messages import VERBS, Wire
from sagellm_engine.service.requests import engine_request, first_indexes
from sagellm_engine.service.spans import RequestTrace
from sagellm_engine.service.state import EngineState
from sagellm_engine.service.steps import StepThread


class Handlers:
    """Answers gateways and operators from the engine's state, and hands work to the step loop.

    Without `handoffs` the engine prefills and decodes everything itself.
    """

    def __init__(self, bus: Bus, state: EngineState, steps: StepThread, handoffs: Handoffs | None) -> None:
        self._bus, self._state, self._steps, self._handoffs = bus, state, steps, handoffs

    async def open(self) -> MicroService:
        """Subscribe to everything; when this returns the server routes to this engine."""
        bus, subjects, engine_id = self._bus, self._bus.settings.subjects, self._state.identity.engine_id
        await bus.serve(subjects.engine_dispatch(engine_id), Dispatch, self.dispatch)
        await bus.serve(subjects.engine_cancel(engine_id), CancelRequest, self.cancel)
        await bus.serve(subjects.engine_resend(engine_id), ResendRequest, self.resend)
        await bus.subscribe(subjects.engine_ack(engine_id), Ack, self.ack)
        await bus.subscribe(subjects.engine_snapshot(engine_id), SnapshotRequest, self.snapshot)
        await bus.subscribe(subjects.gateway_heartbeat("*"), GatewayHeartbeat, self.gateway_heartbeat)
        for message_type, verb in VERBS.items():
            await bus.subscribe(subjects.engine_lease(engine_id, verb), message_type, self.lease)
        await bus.subscribe(subjects.engine_lease(engine_id, "abort"), LeaseAbort, self.abort)
        service = await MicroService.start(bus, "engine", "Computes tokens.", self._metadata())
        control = subjects.engine_control(engine_id)
        await service.add_endpoint("control", control, ControlRequest, self.control, queue="engines")
        await bus.flush()
        return service

    def _metadata(self) -> dict[str, str]:
        identity = self._state.identity
        return {
            "id": identity.engine_id,
            "pid": str(identity.pid),
            "host": identity.host,
            "models": ",".join(identity.models),
            "backend": identity.backend,
            "role": identity.role,
        }

    async def dispatch(self, dispatch: Dispatch, received: Received) -> DispatchReply:
        """Take a request, or say why not."""
        assignments = self._state.assignments
        assignments.seen(dispatch.leader_epoch, dispatch.assignment_number)
        try:
            return self._take(dispatch, time.monotonic())
        finally:
            self._steps.assigned(assignments.mark)

    def _take(self, dispatch: Dispatch, now: float) -> DispatchReply:
        state = self._state
        state.gateways.seen(dispatch.gateway_id, now)
        if dispatch.incarnation != state.identity.incarnation:
            raise Unavailable("the engine has been restarted since this request was assigned to it")
        if not state.ledger.check((dispatch.request_id, dispatch.epoch), now):
            return DispatchReply(duplicate=True)
        if state.phase != "ready":
            raise Unavailable(f"the engine is {state.phase} and takes no new requests")
        if dispatch.model not in state.identity.models:
            raise NotFound(f"this engine does not serve {dispatch.model!r}", param="model")
        self._accept(dispatch, now)
        return DispatchReply()

    def _accept(self, dispatch: Dispatch, now: float) -> None:
        request = engine_request(dispatch, now)
        validate_request(request, self._state.info)
        if request.deadline is not None and request.deadline <= now:
            raise DeadlineExceeded("the deadline was over before the engine got the request")
        if dispatch.decode_engine:
            self._prefill(request, dispatch)
            return
        if self._handoffs is not None:
            self._handoffs.cancel(dispatch.request_id, None)  # an older epoch, which this one replaces
        self._state.ledger.accept(
            request.key,
            dispatch.gateway_id,
            first_indexes(request),
            now,
            num_prompt_tokens=len(request.prompt_token_ids),
            trace=RequestTrace(dispatch.model),
        )
        if dispatch.prefill_engine and self._handoffs is not None:
            self._handoffs.take(request, dispatch.prefill_engine)
        else:
            self._steps.submit(request)

    def _prefill(self, request: EngineRequest, dispatch: Dispatch) -> None:
        if self._handoffs is None:
            raise Unavailable("this engine hands nothing over: set SAGELLM_KV_TRANSFER")
        num_tokens = len(request.prompt_token_ids)
        entry = Entry(request.key, dispatch.gateway_id, {}, num_tokens, RequestTrace(dispatch.model))
        self._handoffs.give(request, dispatch.decode_engine, entry)

    async def cancel(self, request: CancelRequest, received: Received) -> CancelReply:
        """End a request, or refuse it when it comes."""
        key = self._state.ledger.cancel(request.request_id, request.epoch, time.monotonic())
        if self._handoffs is not None:
            self._handoffs.cancel(request.request_id, request.epoch)
        if key is not None:
            self._steps.cancel(key)
        return CancelReply(found=key is not None)

    def cancel_lost(self, key: RequestKey) -> None:
        """End a request that nobody waits for any more."""
        if self._handoffs is not None:
            self._handoffs.cancel(*key)
        self._steps.cancel(key)

    def lease(self, message: Wire, received: Received) -> None:
        """Take what another engine says about a hand-off."""
        if self._handoffs is not None:
            self._handoffs.received(message)

    def abort(self, message: LeaseAbort, received: Received) -> None:
        """A gateway says that the other engine will not hand a request over."""
        if self._handoffs is not None:
            self._handoffs.abandoned(message)

    async def resend(self, request: ResendRequest, received: Received) -> TokenItem:
        """Return the tokens of a choice from an index on, as many as fit into a message."""
        key = request.request_id, request.epoch
        item = self._state.ledger.resend(key, request.choice, request.from_index)
        return fitting(item, self._bus.max_payload)

    def ack(self, ack: Ack, received: Received) -> None:
        """Forget what a gateway has received to the end."""
        self._state.ledger.ack(ack.requests, time.monotonic())

    def snapshot(self, request: SnapshotRequest, received: Received) -> None:
        """Tell a scheduler all of the prefix cache, in parts."""
        if received.reply:
            self._bus.spawn(self._tell_snapshot(received.reply, received.content_type))

    async def _tell_snapshot(self, reply: str, content_type: str) -> None:
        for part in list(self._state.prefixes.snapshot()):
            await self._bus.publish(reply, part, content_type=content_type)

    def gateway_heartbeat(self, heartbeat: GatewayHeartbeat, received: Received) -> None:
        """Note that a gateway lives."""
        self._state.gateways.seen(heartbeat.gateway_id, time.monotonic())

    async def control(self, request: ControlRequest, received: Received) -> ControlReply:
        """Carry out an operator's order."""
        state = self._state
        if request.action == "drain":
            state.drain()
        elif request.action == "resume":
            state.resume()
        gauges = state.reporter.gauges
        detail = {
            "requests_open": state.ledger.num_open,
            "requests_held": len(state.ledger),
            "gateways": len(state.gateways),
            "bus_reconnects": self._bus.reconnects,
        }
        return ControlReply(state=state.phase, running=gauges.running, waiting=gauges.waiting, detail=detail)
