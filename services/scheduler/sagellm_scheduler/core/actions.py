"""What the scheduler wants done."""

from dataclasses import dataclass

from sagellm_common.contracts.decisions import DecisionRecord
from sagellm_common.contracts.scheduling import Assignment, Notice, SubmitReply


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer a submit: queued, or rejected with an error; `is_new` marks an epoch that has just been admitted."""

    request_id: str
    epoch: int
    reply: SubmitReply
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Assign:
    """Publish an assignment to the gateway; `is_repeat` marks one that was published before."""

    gateway_id: str
    assignment: Assignment
    model: str
    queued_s: float
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Notify:
    """Publish a notice to one gateway."""

    gateway_id: str
    notice: Notice


@dataclass(frozen=True, slots=True)
class PublishRecord:
    """Keep a decision record; `merge`: the stream may hold earlier decisions that belong into it."""

    record: DecisionRecord
    merge: bool = False


@dataclass(frozen=True, slots=True)
class AskGateway:
    """Ask a gateway for its open requests; the answer comes back as OpenLearnt."""

    gateway_id: str


@dataclass(frozen=True, slots=True)
class AskEngine:
    """Ask an engine for all of its prefix cache; the answer comes back as CacheLearnt."""

    engine_id: str


Action = Reply | Assign | Notify | PublishRecord | AskGateway | AskEngine
