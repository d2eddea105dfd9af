"""Hand-offs of one engine, to others and from others: the lease cores, between bus, step loop and transfer thread.

Everything here runs on the event loop. Pages are the step loop's: what is decided about them goes there as an order,
and a page that a lease has let go is freed by an order that comes later than all that was done with it before.
"""

import contextlib
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from sagellm_common.bus import Bus
from sagellm_common.contracts.handoff import LeaseAbort, LeaseOffer
from sagellm_common.errors import SageError
from sagellm_engine.core.types import EngineRequest, FinishReason, FirstToken, Held, RequestKey, TokenOutput
from sagellm_engine.kv.pool import Reserved
from sagellm_engine.service.entries import Entry
from sagellm_engine.service.lease_messages import VERBS, Wire, from_wire, kv_layout, kv_memory, to_wire
from sagellm_engine.service.metrics import EngineMetrics
from sagellm_engine.service.remembered import Remembered
from sagellm_engine.service.state import EngineState
from sagellm_engine.service.steps import StepThread
from sagellm_engine.service.transfer import TransferThread
from sagellm_engine.transfer.giving import GivingAction, GivingSide, Release, Send
from sagellm_engine.transfer.layout import KvLayout, why_incompatible
from sagellm_engine.transfer.lease import Ended, LeaseId, Offer, Ready, Refusal
from sagellm_engine.transfer.reads import PageRead
from sagellm_engine.transfer.taking import (
    Adopt,
    FreePages,
    Read,
    Recompute,
    RecreateAgent,
    TakingAction,
    TakingSide,
)

log = structlog.get_logger(__name__)
KEEP_OFFERS_S = 1.0


@dataclass(slots=True)
class _Giving:
    """A request that is prefilled for engine `to`; `lease` once it has pages. `entry` is there for its spans."""

    to: str
    entry: Entry
    lease: LeaseId | None = None


@dataclass(slots=True)
class _Taking:
    """A request that waits for what engine `giver` prefills; from the first offer on with the newest, and where that
    lies."""

    request: EngineRequest
    giver: str
    offer: Offer | None = None
    theirs: KvLayout | None = None
    agent: bytes = b""
    complete_at: float | None = None


class Handoffs:
    """Both sides of an engine's hand-offs."""

    def __init__(
        self, bus: Bus, state: EngineState, steps: StepThread, transfer: TransferThread, metrics: EngineMetrics
    ) -> None:
        self._bus, self._state, self._steps, self._transfer = bus, state, steps, transfer
        self._metrics = metrics
        self._memory = kv_memory(transfer.layout)
        state.reporter.num_expected = lambda: len(self._taking)
        steps.on_held, transfer.on_read_ended, transfer.on_recreated = self.held, self.read_ended, self.recreated
        self._giving_side, self._taking_side = GivingSide(state.identity.incarnation), TakingSide()
        self._giving: dict[RequestKey, _Giving] = {}
        self._taking: dict[RequestKey, _Taking] = {}
        self._early: Remembered[RequestKey, LeaseOffer | None] = Remembered(KEEP_OFFERS_S)
        self._is_read = False

    @property
    def num_open(self) -> int:
        """Requests that are handed over, in either direction."""
        return len(self._giving) + len(self._taking)

    # requests

    def give(self, request: EngineRequest, to: str, entry: Entry) -> None:
        """Prefill a request with `hold` and hand it over to engine `to`; a repetition changes nothing."""
        if request.key in self._giving:
            return
        self._giving[request.key] = _Giving(to, entry)
        self._steps.submit(request)

    def take(self, request: EngineRequest, giver: str) -> None:
        """Wait for a request that engine `giver` prefills; where nothing comes of it, it is prefilled here."""
        self._taking[request.key] = _Taking(request, giver)
        now = time.monotonic()
        self._do_taking(self._taking_side.expect(request.key, now))
        early = self._early.get(request.key, None, now)
        if early is not None:
            self.received(early)

    def cancel(self, request_id: str, epoch: int | None) -> None:
        """Give up a request (None: all its epochs), on whichever side it is."""
        now = time.monotonic()
        for key in _matching(self._taking, request_id, epoch):
            request = self._taking.pop(key).request
            self._do_taking(self._taking_side.cancel(key, now))
            self._steps.conclude(request, FinishReason.CANCELLED)
        for key in _matching(self._giving, request_id, epoch):
            self._stop_giving(key, now)
            self._steps.release_held(key)

    def abandoned(self, abort: LeaseAbort) -> None:
        """A gateway knows that the other engine will not hand this request over."""
        key = abort.request_id, abort.epoch
        self._do_taking(
            self._taking_side.abandoned(key, abort.reason or "the prefill engine is gone", time.monotonic())
        )

    # what the step loop says

    def held(self, held: Held) -> None:
        """A request has its pages, or has got on."""
        giving, now = self._giving.get(held.key), time.monotonic()
        if giving is None:
            return  # given up meanwhile, and its pages with it
        if giving.lease is None:
            giving.entry.trace.admitted(0.0)
            giving.lease, actions = self._giving_side.offer(
                *held.key, held.pages, giving.to, now, num_ready=held.num_ready if held.first is None else 0
            )
            self._do_giving(actions)
            if held.first is None:
                return
        if held.first is not None:
            giving.entry.trace.started(giving.entry)
        self._do_giving(self._giving_side.progressed(giving.lease, held.num_ready, held.first, now))

    def failed(self, outputs: Iterable[TokenOutput]) -> None:
        """Note the requests among these that were to be handed over and have ended instead."""
        if not self._giving:
            return
        for output in outputs:
            if output.finish is not None and output.key in self._giving:
                self._stop_giving(output.key, time.monotonic())

    def _stop_giving(self, key: RequestKey, now: float) -> None:
        giving = self._giving.pop(key)
        if giving.lease is not None:
            self._do_giving(self._giving_side.give_up(giving.lease, now))
        else:
            abort = LeaseAbort(request_id=key[0], epoch=key[1], reason="the prefill engine could not compute it")
            self._bus.spawn(self._publish(giving.to, "abort", abort))

    # what other engines say

    def received(self, wire: Wire) -> None:
        """Take a message of a hand-off."""
        now, message = time.monotonic(), from_wire(wire)
        if isinstance(wire, LeaseOffer) and isinstance(message, Offer):
            self._offered(wire, message, now)
            return
        if isinstance(message, Ready):
            self._note_complete(message.lease, message.num_pages, now)
        self._do_giving(self._giving_side.take(message, wire.sender, now))
        self._do_taking(self._taking_side.take(message, now))

    def _offered(self, wire: LeaseOffer, offer: Offer, now: float) -> None:
        taking = self._taking.get((offer.lease.request_id, offer.lease.epoch))
        if taking is None:
            self._early.set((offer.lease.request_id, offer.lease.epoch), wire, now)  # its request may be on its way
        elif wire.sender != taking.giver:
            self._send(Send(wire.sender, Refusal(offer.lease)))
            return
        if taking is None or not self._taking_side.wants(offer):
            self._note_complete(offer.lease, offer.num_ready, now)
            self._do_taking(self._taking_side.offered(offer, wire.sender, None, now))
            return
        is_first, taking.offer = taking.offer is None, offer
        if is_first:  # else pages have been asked for already
            self._make_room(wire, taking, offer, now)
        self._note_complete(offer.lease, offer.num_ready, now)

    def _make_room(self, wire: LeaseOffer, taking: _Taking, offer: Offer, now: float) -> None:
        theirs = taking.theirs = kv_layout(wire.memory)
        taking.agent = wire.agent
        tokens = _tokens(taking.request)
        why = why_incompatible(self._transfer.layout, theirs)
        if why is None and len(offer.pages) * theirs.page_size < len(tokens):
            why = "the pages do not hold the prompt"
        if why is None:
            unit = math.lcm(self._transfer.layout.page_size, theirs.page_size)
            self._steps.reserve(tokens, unit, lambda reserved: self._reserved(taking, theirs, wire.sender, reserved))
            return
        log.warning("handoff_refused", sender=wire.sender, reason=why)
        self._do_taking(self._taking_side.offered(offer, wire.sender, None, now))

    def _reserved(self, taking: _Taking, theirs: KvLayout, sender: str, reserved: Reserved | None) -> None:
        assert taking.offer is not None  # it was what pages were reserved for
        pages, num_known = (None, 0) if reserved is None else (reserved.pages, reserved.num_known // theirs.page_size)
        now = time.monotonic()
        self._do_taking(self._taking_side.offered(taking.offer, sender, pages, now, num_known=num_known))

    def _note_complete(self, name: LeaseId, num_ready: int, now: float) -> None:
        """Note when all pages of a request can be read: what it takes from then on is the transfer."""
        taking = self._taking.get((name.request_id, name.epoch))
        if taking is None or taking.complete_at is not None or taking.theirs is None:
            return
        if num_ready * taking.theirs.page_size >= len(_tokens(taking.request)):
            taking.complete_at = now

    # what the transfer thread says

    def read_ended(self, handle: int, ok: bool) -> None:
        """A read has come to its end."""
        self._do_taking(self._taking_side.read_ended(handle, ok, time.monotonic()))

    def recreated(self) -> None:
        """The transport has been opened anew."""
        self._do_taking(self._taking_side.agent_recreated(time.monotonic()))

    # time

    def tick(self, now: float) -> None:
        """Repeat what was not answered, give up what takes too long."""
        self._do_giving(self._giving_side.tick(now))
        self._do_taking(self._taking_side.tick(now))

    # what the lease cores want done

    def _do_giving(self, actions: list[GivingAction]) -> None:
        for action in actions:
            if isinstance(action, Release):
                key = action.lease.request_id, action.lease.epoch
                self._giving.pop(key, None)
                self._steps.release_held(key)
                if action.ended is Ended.VALID:
                    self._metrics.handed_over("given")
            else:
                self._send(action)
        if self._is_read != bool(len(self._giving_side)):
            self._is_read = bool(len(self._giving_side))
            self._transfer.be_read(self._is_read)

    def _do_taking(self, actions: list[TakingAction]) -> None:
        for action in actions:
            match action:
                case Send():
                    self._send(action)
                case Read():
                    self._read(action)
                case Adopt():
                    self._adopt(action)
                case Recompute(key, reason):
                    log.warning("handoff_failed", request_id=key[0], reason=reason)
                    self._metrics.handed_over("recomputed")
                    self._steps.submit(self._taking.pop(key).request)
                case FreePages(pages):
                    self._steps.free_reserved(pages)
                case RecreateAgent():
                    self._transfer.recreate()

    def _read(self, read: Read) -> None:
        taking = self._taking[read.lease.request_id, read.lease.epoch]
        assert taking.theirs is not None  # it has been offered
        self._transfer.read(PageRead(read.handle, taking.agent, taking.theirs, read.first, read.sources, read.pages))

    def _adopt(self, action: Adopt) -> None:
        taking = self._taking.pop(action.request)
        assert isinstance(action.first, FirstToken)  # a valid lease ends with it
        self._metrics.handed_over("taken")
        entry = self._state.ledger.entry(action.request)
        if entry is not None and taking.complete_at is not None:
            seconds = time.monotonic() - taking.complete_at
            self._metrics.transferred(seconds)
            entry.trace.transferred(entry, seconds)
            for choice in entry.choices.values():
                choice.transfer_ms = round(seconds * 1e3, 3)
        self._steps.adopt(taking.request, action.pages, action.first)

    def _send(self, send: Send) -> None:
        wire = to_wire(send.message, self._state.identity.engine_id, self._memory, self._transfer.agent)
        self._bus.spawn(self._publish(send.to, VERBS[type(wire)], wire))

    async def _publish(self, engine_id: str, verb: str, message: Wire | LeaseAbort) -> None:
        """Tell another engine; what is lost is said again."""
        if self._bus.is_connected:
            with contextlib.suppress(SageError):
                await self._bus.publish(self._bus.settings.subjects.engine_lease(engine_id, verb), message)


def _matching(keys: Iterable[RequestKey], request_id: str, epoch: int | None) -> list[RequestKey]:
    return [key for key in keys if key[0] == request_id and epoch in (None, key[1])]


def _tokens(request: EngineRequest) -> Sequence[int]:
    """Return the tokens that are to be handed over: the prompt with what was delivered."""
    return [*request.prompt_token_ids, *(request.delivered[0] if request.delivered else ())]
