"""What can happen to the scheduler."""

from dataclasses import dataclass

from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.kv import KvEvents, SnapshotReply
from sagellm_common.contracts.reports import EngineReport
from sagellm_common.contracts.scheduling import OpenRequest, Submit
from sagellm_scheduler.queueing.policy import QueuePolicy
from sagellm_scheduler.routing.router import Router
from sagellm_scheduler.separation.policy import SeparationPolicy


@dataclass(frozen=True, slots=True)
class Submitted:
    """A gateway describes one epoch of a request; it is always answered by one Reply."""

    submit: Submit


@dataclass(frozen=True, slots=True)
class EngineRegistered:
    """An engine's registration has appeared or changed."""

    registration: EngineRegistration


@dataclass(frozen=True, slots=True)
class EngineGone:
    """An engine's registration has been removed or has run out."""

    engine_id: str


@dataclass(frozen=True, slots=True)
class EngineReported:
    """An engine has published its gauges, which is its heartbeat too."""

    report: EngineReport


@dataclass(frozen=True, slots=True)
class CacheChanged:
    """An engine's prefix cache has changed."""

    events: KvEvents


@dataclass(frozen=True, slots=True)
class CacheLearnt:
    """All that is in an engine's prefix cache, as asked for."""

    snapshot: SnapshotReply


@dataclass(frozen=True, slots=True)
class GatewaySeen:
    """A gateway's heartbeat."""

    gateway_id: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """A gateway has closed a request: finished, failed or cancelled."""

    event: RequestEvent


@dataclass(frozen=True, slots=True)
class OpenLearnt:
    """A gateway's complete list of open requests, asked for at `asked_at` on our clock."""

    gateway_id: str
    requests: tuple[OpenRequest, ...]
    asked_at: float


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """The queue policy, the router and the policy of separating prefill and decode that decide from now on."""

    queue: QueuePolicy
    router: Router
    separation: SeparationPolicy | None = None


@dataclass(frozen=True, slots=True)
class LeadershipGained:
    """This scheduler leads from now on."""

    leader_epoch: LeaderEpoch


@dataclass(frozen=True, slots=True)
class LeadershipLost:
    """Another scheduler may lead from now on."""


@dataclass(frozen=True, slots=True)
class BusUp:
    """Our own connection to the bus stands (again)."""


@dataclass(frozen=True, slots=True)
class BusDown:
    """Our own connection to the bus is lost: silence means nothing until it stands again."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; sent several times a second."""


Event = (
    Submitted
    | EngineRegistered
    | EngineGone
    | EngineReported
    | CacheChanged
    | CacheLearnt
    | GatewaySeen
    | RequestEnded
    | OpenLearnt
    | PolicyChanged
    | LeadershipGained
    | LeadershipLost
    | BusUp
    | BusDown
    | Tick
)
