"""What happens to the core."""

from collections.abc import Sequence
from dataclasses import dataclass

from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.reports import Progress
from sagellm_common.contracts.scheduling import Assignment, Notice, SubmitReply
from sagellm_common.errors import SageError
from sagellm_gateway.core.request import Request


@dataclass(frozen=True, slots=True)
class Accepted:
    """A client's request has been validated and tokenized."""

    request: Request


@dataclass(frozen=True, slots=True)
class LeaderChanged:
    """The scheduler that leads, None if none does."""

    scheduler_id: str | None


@dataclass(frozen=True, slots=True)
class BusChanged:
    """The connection to the bus went down or came up."""

    up: bool


@dataclass(frozen=True, slots=True)
class SubmitAnswered:
    """The answer to `SendSubmit`, or why there is none; `attempt` is that of the action."""

    request_id: str
    attempt: int
    answer: SubmitReply | SageError


@dataclass(frozen=True, slots=True)
class Assigned:
    """The leader has chosen an engine."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Noticed:
    """The scheduler rejects late, or an engine is lost."""

    notice: Notice


@dataclass(frozen=True, slots=True)
class DispatchAnswered:
    """The answer to `SendDispatch`; `error` None: the engine has it."""

    request_id: str
    attempt: int
    error: SageError | None


@dataclass(frozen=True, slots=True)
class PrefillAnswered:
    """The answer to `SendPrefill`; `error` None: the engine prefills."""

    request_id: str
    epoch: int
    error: SageError | None


@dataclass(frozen=True, slots=True)
class Reported:
    """An engine is alive; `progress` says how far it is with our requests."""

    engine_id: str
    incarnation: str
    progress: Sequence[Progress] = ()


@dataclass(frozen=True, slots=True)
class Resent:
    """The answer to `SendResend`."""

    request_id: str
    epoch: int
    choice: int
    answer: TokenItem | SageError


@dataclass(frozen=True, slots=True)
class Drained:
    """A client has caught up: its sink takes tokens again."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """A stop string has come up in the text of a choice: no more of its tokens are wanted."""

    request_id: str
    choice: int


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The client went away or asked to stop; `error` says which."""

    request_id: str
    error: SageError


Event = (
    Accepted
    | LeaderChanged
    | BusChanged
    | SubmitAnswered
    | Assigned
    | Noticed
    | DispatchAnswered
    | PrefillAnswered
    | Reported
    | Resent
    | Drained
    | Stopped
    | CancelAsked
)
