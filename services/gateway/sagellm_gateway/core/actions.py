"""What the core wants done. `SendSubmit`, `SendDispatch`, `SendPrefill` and `SendResend` are each answered by exactly
one event."""

from dataclasses import dataclass

from sagellm_common.contracts.dispatch import Dispatch, ResendRequest
from sagellm_common.contracts.handoff import LeaseAbort
from sagellm_common.contracts.scheduling import Submit
from sagellm_gateway.core.request import Outcome, Request


@dataclass(frozen=True, slots=True)
class SendSubmit:
    """Describe an epoch to the leader."""

    scheduler_id: str
    attempt: int
    submit: Submit


@dataclass(frozen=True, slots=True)
class SendDispatch:
    """Give an engine the body of an epoch."""

    engine_id: str
    attempt: int
    timeout_s: float
    dispatch: Dispatch


@dataclass(frozen=True, slots=True)
class SendPrefill:
    """Give another engine the body too, which prefills the prompt and hands it over to the one that decodes."""

    engine_id: str
    timeout_s: float
    dispatch: Dispatch


@dataclass(frozen=True, slots=True)
class SendAbort:
    """Tell the engine that decodes that the other one will hand nothing over."""

    engine_id: str
    abort: LeaseAbort


@dataclass(frozen=True, slots=True)
class SendCancel:
    """Tell an engine that an epoch (None: the whole request) is no longer wanted."""

    engine_id: str
    request_id: str
    epoch: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class SendResend:
    """Ask an engine for tokens again."""

    engine_id: str
    resend: ResendRequest


@dataclass(frozen=True, slots=True)
class SendAck:
    """Tell an engine that all of an epoch has arrived."""

    engine_id: str
    request_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Placed:
    """The leader has the request, or an engine; whoever waits for acceptance need not wait longer."""

    request: Request


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The first token of a request has arrived."""

    request: Request
    ttft_s: float


@dataclass(frozen=True, slots=True)
class Migrated:
    """A request moves on to a new epoch; `reason` says why in a sentence."""

    request: Request
    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """A request has ended; it is the last action for it that concerns the client."""

    request: Request
    outcome: Outcome


Action = (
    SendSubmit
    | SendDispatch
    | SendPrefill
    | SendAbort
    | SendCancel
    | SendResend
    | SendAck
    | Placed
    | FirstToken
    | Migrated
    | Closed
)
