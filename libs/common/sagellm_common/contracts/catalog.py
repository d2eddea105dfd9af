"""Which message travels on which subject: the source of the published contract (AsyncAPI)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from sagellm_common.contracts import (
    decisions,
    dispatch,
    engines,
    events,
    frames,
    generate,
    handoff,
    kv,
    plan,
    policy,
    registry,
    reports,
    scheduling,
)
from sagellm_common.contracts.base import Message
from sagellm_common.contracts.packed import Packed
from sagellm_common.subjects import Subjects

AnyMessage = type[Message] | type[Packed]
Pattern = Literal["publish", "request", "request, many replies", "kv", "stream"]


@dataclass(frozen=True, slots=True)
class Channel:
    """One subject (or bucket key): who sends, who receives, what, and what comes back."""

    name: str
    address: str
    pattern: Pattern
    sender: str
    receiver: str
    message: AnyMessage
    reply: AnyMessage | None = None
    about: str = ""


def channels() -> Iterator[Channel]:
    """All channels of the contract, with parameters in braces."""
    s = _templates()
    yield from _client_channels(s)
    yield from _scheduler_channels(s)
    yield from _engine_channels(s)
    yield from _event_channels(s)
    yield from _registry_channels(s)
    yield from _bucket_channels()


def _templates() -> Callable[[str], str]:
    """Return a function that turns a subject built with `X` as a parameter into an address with `{id}`."""
    prefix = Subjects("D").prefix
    return lambda subject: subject.replace(prefix, "sagellm.{deployment}.v1").replace(".X", ".{id}")


_S = Subjects("D")

LEASE_VERBS: tuple[tuple[str, AnyMessage, str], ...] = (
    ("offer", handoff.LeaseOffer, "repeated until it is answered"),
    ("taken", handoff.LeaseTaken, "the answer to an offer"),
    ("ready", handoff.LeaseReady, "cumulative, and repeated"),
    ("close", handoff.LeaseClose, "repeated until it is answered"),
    ("closed", handoff.LeaseClosed, "the same answer to every close of a lease"),
)


def _client_channels(s: Callable[[str], str]) -> Iterator[Channel]:
    yield Channel(
        "generate",
        s(_S.generate),
        "request, many replies",
        "client",
        "gateway (one of the queue group)",
        generate.GenerateRequest,
        generate.GenerateReply,
        "replies come to the caller's inbox, numbered by `seq`, the last one `final`; JSON with Content-Type",
    )
    yield Channel(
        "cancel",
        s(_S.cancel("X")),
        "publish",
        "client",
        "the gateway that owns the request",
        generate.CancelRequest,
        about="id is the request id of the replies",
    )


def _scheduler_channels(s: Callable[[str], str]) -> Iterator[Channel]:
    yield Channel(
        "submit",
        s(_S.submit("X")),
        "request",
        "gateway",
        "the leading scheduler",
        scheduling.Submit,
        scheduling.SubmitReply,
        "idempotent by (request_id, epoch); id is the scheduler's",
    )
    yield Channel("assign", s(_S.gateway_assign("X")), "publish", "scheduler", "gateway", scheduling.Assignment)
    yield Channel("notify", s(_S.gateway_notify("X")), "publish", "scheduler", "gateway", scheduling.Notice)
    yield Channel(
        "open",
        s(_S.gateway_open("X")),
        "request, many replies",
        "scheduler",
        "gateway",
        scheduling.OpenQuery,
        scheduling.OpenReply,
        "in parts, the last one marked",
    )
    yield Channel(
        "gateway_heartbeat",
        s(_S.gateway_heartbeat("X")),
        "publish",
        "gateway",
        "schedulers, engines",
        scheduling.GatewayHeartbeat,
    )
    yield Channel(
        "explain",
        s(_S.explain),
        "request",
        "anyone",
        "any scheduler",
        decisions.ExplainRequest,
        decisions.DecisionRecord,
    )
    yield Channel(
        "policy", s(_S.policy), "request", "operator", "any scheduler", policy.PolicyChange, policy.PolicyReply
    )
    yield Channel(
        "decision", s(_S.decision("X")), "stream", "scheduler", "stream `decisions`", decisions.DecisionRecord
    )


def _engine_channels(s: Callable[[str], str]) -> Iterator[Channel]:
    yield Channel(
        "dispatch",
        s(_S.engine_dispatch("X")),
        "request",
        "gateway",
        "engine",
        dispatch.Dispatch,
        dispatch.DispatchReply,
    )
    yield Channel(
        "engine_cancel",
        s(_S.engine_cancel("X")),
        "request",
        "gateway",
        "engine",
        generate.CancelRequest,
        generate.CancelReply,
        "remembered for 60 s, so that it may overtake its dispatch",
    )
    yield Channel(
        "control",
        s(_S.engine_control("X")),
        "request",
        "operator",
        "engine",
        dispatch.ControlRequest,
        dispatch.ControlReply,
    )
    yield Channel(
        "resend", s(_S.engine_resend("X")), "request", "gateway", "engine", dispatch.ResendRequest, frames.TokenItem
    )
    yield Channel(
        "snapshot",
        s(_S.engine_snapshot("X")),
        "request, many replies",
        "scheduler",
        "engine",
        kv.SnapshotRequest,
        kv.SnapshotReply,
        "in parts, the last one marked",
    )
    yield Channel(
        "kv",
        s(_S.kv("X")),
        "publish",
        "engine",
        "schedulers",
        kv.KvEvents,
        about="numbered, so that a gap is noticed and repaired by a snapshot",
    )
    yield Channel("ack", s(_S.engine_ack("X")), "publish", "gateway", "engine", dispatch.Ack)
    for verb, message, about in LEASE_VERBS:
        yield Channel(
            f"lease_{verb}", s(_S.engine_lease("X", verb)), "publish", "engine", "engine", message, about=about
        )
    yield Channel("lease_abort", s(_S.engine_lease("X", "abort")), "publish", "gateway", "engine", handoff.LeaseAbort)
    yield Channel(
        "tokens",
        s(_S.tokens("X")),
        "publish",
        "engine",
        "gateway",
        frames.TokenFrame,
        about="one message per engine step and gateway; id is the gateway's",
    )
    yield Channel(
        "engine_metrics",
        s(_S.engine_metrics("X")),
        "publish",
        "engine",
        "schedulers, gateways, observers",
        reports.EngineReport,
    )


def _event_channels(s: Callable[[str], str]) -> Iterator[Channel]:
    yield Channel(
        "request_events",
        s(_S.request_event("X")),
        "publish",
        "gateway",
        "schedulers, observers",
        events.RequestEvent,
        about="id is the phase",
    )
    yield Channel(
        "model_events",
        s(_S.model_event("X")),
        "publish",
        "registry",
        "observers",
        events.ModelEvent,
        about="id is the model's",
    )


def _registry_channels(s: Callable[[str], str]) -> Iterator[Channel]:
    verbs: dict[str, tuple[AnyMessage, AnyMessage]] = {
        "list": (registry.ListQuery, registry.ListReply),
        "resolve": (registry.ModelQuery, registry.ModelReply),
        "download": (registry.DownloadRequest, registry.DownloadReply),
        "delete": (registry.ModelQuery, registry.ModelReply),
        "touch": (registry.ModelQuery, registry.ModelReply),
        "tag": (registry.TagRequest, registry.ModelReply),
    }
    for verb, (message, reply) in verbs.items():
        yield Channel(f"registry_{verb}", s(_S.registry(verb)), "request", "anyone", "registry", message, reply)


def _bucket_channels() -> Iterator[Channel]:
    buckets: dict[str, tuple[str, AnyMessage, str]] = {
        "engines": ("engine", engines.EngineRegistration, "key: engine id; gone 10 s after the last renewal"),
        "models": ("registry", registry.ModelCard, "key: model id"),
        "leader": ("scheduler", policy.Leader, "key `scheduler`: the lease; gone 2 s after the last renewal"),
        "policy": ("scheduler", policy.Policy, "key `scheduler`: live settings"),
        "plans": ("planner", plan.FleetPlan, "key: model; how many engines are wanted, followed by scalers"),
    }
    for name, (sender, message, about) in buckets.items():
        address = f"$KV.sagellm_{{deployment}}_{name}.{{id}}"
        yield Channel(f"bucket_{name}", address, "kv", sender, "everyone", message, about=about)


def message_types() -> list[AnyMessage]:
    """Every message type of the contract, once, by name."""
    found = {m for channel in channels() for m in (channel.message, channel.reply) if m is not None}
    return sorted(found, key=lambda cls: cls.__name__)
