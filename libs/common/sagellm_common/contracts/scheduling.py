"""Gateway and scheduler: submit a description, receive an assignment. The body never travels here."""

from typing import Any, Literal

from pydantic import Field

from sagellm_common.contracts.base import LeaderEpoch, Message
from sagellm_common.contracts.slo import Priority, Slo


class Submit(Message):
    """Describe one epoch of a request to the leader; idempotent by (request_id, epoch).

    `block_hashes` are chained hashes of the prompt's index blocks (32 tokens). `delivered_tokens` is how many the
    client has already, when an epoch above 0 continues a stream. `failed_engines` should not be chosen again.
    """

    request_id: str
    epoch: int = 0
    gateway_id: str
    model: str
    prompt_tokens: int = Field(ge=0)
    max_tokens: int = Field(ge=0)
    num_choices: int = 1
    delivered_tokens: int = 0
    block_hashes: tuple[int, ...] = ()
    prefix_hash: int = Field(default=0, description="hash of the prompt's first 256 tokens or less, for locality")
    slo: Slo = Slo()
    cost_budget: float | None = Field(default=None, gt=0, description="most that the request may cost")
    priority: Priority = Priority.NORMAL
    tenant: str = "default"
    user: str | None = None
    session: str | None = None
    age_ms: float = Field(default=0.0, description="time since the gateway accepted the request")
    failed_engines: tuple[str, ...] = ()


class SubmitReply(Message):
    """Queued (with position), or rejected with an error."""

    status: Literal["queued", "rejected"]
    position: int = 0
    predicted_ttft_ms: float | None = None
    error: dict[str, Any] | None = None


class PrefillAssignment(Message):
    """Where the prompt of an epoch is prefilled, if not where it is decoded; `number` as in Assignment."""

    engine_id: str
    incarnation: str
    number: int


class Assignment(Message):
    """Where one epoch of a request runs. `number` counts the assignments of one engine under one leader epoch.

    With `prefill`, that engine prefills the prompt and hands it over to this one, which decodes. `itl_ms` is the time
    from token to token that the request is promised: what it states, or what all are promised.
    """

    request_id: str
    epoch: int
    engine_id: str
    incarnation: str
    leader_epoch: LeaderEpoch
    number: int
    dispatch_timeout_ms: float = 2000.0
    prefill: PrefillAssignment | None = None
    itl_ms: float | None = None


class Notice(Message):
    """What the scheduler tells a gateway besides assignments.

    `rejected`: an epoch was given up after it was queued. `engine_lost`: every open request of that engine
    incarnation needs a new epoch.
    """

    kind: Literal["rejected", "engine_lost"]
    request_id: str | None = None
    epoch: int | None = None
    engine_id: str | None = None
    incarnation: str | None = None
    error: dict[str, Any] | None = None


class OpenQuery(Message):
    """A scheduler asks a gateway which requests are open; what is unknown to it is submitted again by the gateway."""

    scheduler_id: str


class OpenRequest(Message):
    """One open request of a gateway: its description, and where it runs, if assigned."""

    submit: Submit
    assignment: Assignment | None = None


class OpenReply(Message):
    """One part of the open requests of a gateway; `last` marks the last part."""

    gateway_id: str
    requests: list[OpenRequest]
    part: int = 0
    last: bool = True


class GatewayHeartbeat(Message):
    """Published by each gateway every second; engines drop the requests of a gateway whose heartbeat ends."""

    gateway_id: str
    incarnation: str
    open_requests: int
    draining: bool = False
