"""Messages of the lease cores in the form in which they travel, and back."""

from dataclasses import astuple

from sagellm_common.contracts.handoff import (
    KvMemory,
    LeaseClose,
    LeaseClosed,
    LeaseName,
    LeaseOffer,
    LeaseReady,
    LeaseTaken,
)
from sagellm_engine.core.types import FirstToken, TokenLogprobs
from sagellm_engine.transfer.layout import KvLayout
from sagellm_engine.transfer.lease import Close, Closed, LeaseId, Message, Offer, Ready, Refusal, Taken

Wire = LeaseOffer | LeaseTaken | LeaseReady | LeaseClose | LeaseClosed

VERBS: dict[type[Wire], str] = {
    LeaseOffer: "offer",
    LeaseTaken: "taken",
    LeaseReady: "ready",
    LeaseClose: "close",
    LeaseClosed: "closed",
}


def to_wire(message: Message, sender: str, memory: KvMemory, agent: bytes) -> Wire:
    """Return what engine `sender`, whose pages lie in `memory`, sends."""
    name = LeaseName(*message.lease)
    match message:
        case Offer():
            return LeaseOffer(name, sender, list(message.pages), message.num_ready, memory, agent)
        case Taken():
            return LeaseTaken(name, sender)
        case Refusal():
            return LeaseTaken(name, sender, accepted=False)
        case Ready():
            return LeaseReady(name, sender, message.num_pages)
        case Close():
            return LeaseClose(name, sender, message.wanted)
        case Closed(_, valid, first):
            if not isinstance(first, FirstToken):
                return LeaseClosed(name, sender, valid=False)
            logprobs = None if first.logprobs is None else list(first.logprobs)
            return LeaseClosed(name, sender, valid, first.token_id, logprobs)


def from_wire(wire: Wire) -> Message:
    """Return what a message means to the lease cores."""
    name = LeaseId(wire.lease.incarnation, wire.lease.request_id, wire.lease.epoch, wire.lease.nonce)
    match wire:
        case LeaseOffer():
            return Offer(name, tuple(wire.pages), wire.num_ready)
        case LeaseTaken():
            return Taken(name) if wire.accepted else Refusal(name)
        case LeaseReady():
            return Ready(name, wire.num_pages)
        case LeaseClose():
            return Close(name, wire.wanted)
        case LeaseClosed():
            return Closed(name, wire.valid, _first(wire) if wire.valid else None)


def _first(wire: LeaseClosed) -> FirstToken:
    if wire.logprobs is None:
        return FirstToken(wire.token_id)
    logprob, top = wire.logprobs
    return FirstToken(wire.token_id, TokenLogprobs(logprob, tuple((token, value) for token, value in top)))


def kv_memory(layout: KvLayout) -> KvMemory:
    """Describe an engine's memory to others."""
    return KvMemory(*astuple(layout))


def kv_layout(memory: KvMemory) -> KvLayout:
    """Return the memory that another engine describes."""
    return KvLayout(**{name: getattr(memory, name) for name in KvLayout.__slots__})
