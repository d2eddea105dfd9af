"""Decision records: why a request went where it went, and what came of it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from sagellm_common.contracts.base import LeaderEpoch, Message
from sagellm_common.contracts.slo import Slo

Cause = Literal["queue", "prefill", "transfer", "decode interference", "engine loss"]
"""What made a request miss its SLO."""


@dataclass(slots=True)
class Candidate:
    """One engine that was looked at; `excluded` says why it could not be chosen."""

    engine_id: str
    load: Annotated[float, Field(description="what the router compared, in its own unit")]
    running: int = 0
    waiting: int = 0
    reserved: int = 0
    cached_tokens: Annotated[int, Field(description="tokens of the prompt that are in its cache")] = 0
    predicted_ttft_ms: Annotated[
        float | None, Field(description="from the gateway's acceptance to the first token")
    ] = None
    predicted_itl_ms: Annotated[float | None, Field(description="mean time from token to token")] = None
    predicted_misses: Annotated[float | None, Field(description="SLOs missed, its own and others'")] = None
    predicted_delay_ms: Annotated[
        float | None, Field(description="by which the others that run or wait there are delayed, together")
    ] = None
    excluded: str | None = None


class Decision(Message):
    """One placement: the candidates, the choice, the reason."""

    epoch: int
    scheduler_id: str
    leader_epoch: LeaderEpoch
    time_s: float
    queue_policy: str
    router: str
    queue_position: int
    queued_ms: float
    candidates: list[Candidate]
    chosen: str
    reason: str
    number: int
    predicted_ttft_ms: float | None = None
    predicted_itl_ms: float | None = None
    prefill: str | None = Field(default=None, description="the engine that prefills, if it is another")
    predicted_transfer_ms: float | None = None
    gave_way: bool = Field(default=False, description="others went first, so that most were in time")
    promised_itl_ms: float | None = Field(
        default=None, description="the time from token to token that its engine tries to keep"
    )


class DecisionRecord(Message):
    """All decisions about one request, and its outcome once it is known."""

    request_id: str
    model: str
    prompt_tokens: int
    max_tokens: int
    priority: int
    decisions: list[Decision] = []
    outcome: str | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = Field(default=None, description="mean time from token to token")
    e2e_ms: float | None = None
    transfer_ms: float | None = None
    completion_tokens: int | None = None
    error: dict[str, Any] | None = None
    slo: Slo = Slo()
    missed: Literal["ttft", "itl", "deadline"] | None = Field(default=None, description="the first SLO that was missed")
    cause: Cause | None = None
    ttft_error: float | None = Field(default=None, description="(measured - predicted) / measured")
    itl_error: float | None = Field(default=None, description="(measured - predicted) / measured")


class ExplainRequest(Message):
    """Ask why: one request id."""

    request_id: str
