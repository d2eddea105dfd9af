"""State of one open request."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from sagellm_common.contracts.dispatch import Dispatch
from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.sampling import SamplingOptions
from sagellm_common.contracts.scheduling import Assignment, PrefillAssignment, Submit
from sagellm_common.errors import SageError

FOREVER = float("inf")


class Phase(IntEnum):
    """Where the current epoch of a request stands; tokens are taken from DISPATCHED on."""

    WAITING = 0  # to be submitted, now or when a leader or the bus is back
    SUBMITTED = 1  # the leader has been asked, its answer is not there yet
    QUEUED = 2  # the leader has it
    DISPATCHED = 3  # assigned, the body has been sent, the engine's answer is not there yet
    STREAMING = 4  # the engine has it
    CLOSED = 5  # finished, failed or cancelled


class Sink(Protocol):
    """Takes the tokens of one request; owned by whoever accepted it. Nothing here may block."""

    @property
    def is_full(self) -> bool:
        """Whether no more tokens are wanted now; what comes all the same must still be taken."""

    def put(self, item: TokenItem, skip: int) -> None:
        """Take the tokens of `item` behind the first `skip`; called in order, without gap or repetition."""


@dataclass(slots=True)
class Choice:
    """One choice: all its tokens so far, how it ended, and how far a repair of it has come."""

    tokens: list[int] = field(default_factory=list)
    finish: str | None = None
    last_token_at: float = 0.0
    behind_at: int = -1  # number of our tokens when a heartbeat last showed that the engine has more
    ahead: int = 0  # index behind the last token that came too early; one more if the end came with it
    resending: bool = False
    resend_attempts: int = 0
    resend_at: float = FOREVER


@dataclass(slots=True)
class Request:
    """One open request. `submit` describes it as of epoch 0; times are in seconds of the core's caller."""

    submit: Submit
    prompt_token_ids: list[int]
    sampling: SamplingOptions
    sink: Sink
    accepted_at: float
    deadline_at: float = FOREVER
    end_token_ids: frozenset[int] = frozenset()
    phase: Phase = Phase.WAITING
    epoch: int = 0
    choices: list[Choice] = field(default_factory=list)
    assignment: Assignment | None = None
    failed_engines: tuple[str, ...] = ()
    # submission
    act_at: float = 0.0
    unplaced_since: float = FOREVER
    queued_since: float = FOREVER
    submissions: int = 0
    attempt: int = 0
    # dispatch and stream
    dispatched_at: float = 0.0
    heard_at: float = 0.0
    idle_epochs: int = 0
    tokens_at_epoch: int = 0
    blocked_since: float = FOREVER
    due: float = FOREVER
    # figures
    assigned_at: float | None = None
    first_token_at: float | None = None
    cached_tokens: int = 0
    transfer_ms: float | None = None
    has_begun: bool = False
    gaps_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.choices = [Choice() for _ in range(self.submit.num_choices)]

    @property
    def request_id(self) -> str:
        return self.submit.request_id

    @property
    def engine_id(self) -> str | None:
        return self.assignment.engine_id if self.assignment else None

    @property
    def is_unassigned(self) -> bool:
        return self.phase <= Phase.QUEUED

    @property
    def num_tokens(self) -> int:
        return sum(len(choice.tokens) for choice in self.choices)

    @property
    def is_complete(self) -> bool:
        return all(choice.finish is not None for choice in self.choices)

    def submission(self, now: float) -> Submit:
        """Return the description of the current epoch."""
        return self.submit.model_copy(
            update={
                "epoch": self.epoch,
                "delivered_tokens": self.num_tokens,
                "failed_engines": self.failed_engines,
                "age_ms": (now - self.accepted_at) * 1000,
            }
        )

    def dispatch(self, assignment: Assignment, now: float) -> Dispatch:
        """Return the body of the current epoch: the prompt, what is delivered, the time that remains."""
        return Dispatch(
            request_id=self.request_id,
            epoch=self.epoch,
            gateway_id=self.submit.gateway_id,
            model=self.submit.model,
            incarnation=assignment.incarnation,
            leader_epoch=assignment.leader_epoch,
            assignment_number=assignment.number,
            prefill_engine=assignment.prefill.engine_id if assignment.prefill is not None else "",
            prompt_token_ids=self.prompt_token_ids,
            sampling=self.sampling,
            delivered=[choice.tokens[:] for choice in self.choices] if self.num_tokens else [],
            finished_choices=[index for index, choice in enumerate(self.choices) if choice.finish is not None],
            priority=self.submit.priority,
            deadline_ms=None if self.deadline_at == FOREVER else max(1.0, (self.deadline_at - now) * 1000),
            itl_ms=assignment.itl_ms,
        )


def prefill_body(body: Dispatch, assignment: Assignment, prefill: PrefillAssignment) -> Dispatch:
    """Return the body for the engine that prefills."""
    return body.model_copy(
        update={
            "incarnation": prefill.incarnation,
            "assignment_number": prefill.number,
            "prefill_engine": "",
            "decode_engine": assignment.engine_id,
        }
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended, with its figures: times in seconds since acceptance, gaps between tokens in seconds."""

    phase: str
    error: SageError | None
    epoch: int
    engine_id: str | None
    finish_reasons: Sequence[str]
    completion_tokens: int
    cached_tokens: int
    queue_s: float | None
    ttft_s: float | None
    e2e_s: float
    gaps_s: Sequence[float]
    transfer_ms: float | None = None


def outcome(request: Request, phase: str, error: SageError | None, now: float) -> Outcome:
    """Sum up a request that ends now."""
    start = request.accepted_at
    return Outcome(
        phase=phase,
        error=error,
        epoch=request.epoch,
        engine_id=request.engine_id,
        finish_reasons=[choice.finish for choice in request.choices if choice.finish],
        completion_tokens=request.num_tokens,
        cached_tokens=request.cached_tokens,
        transfer_ms=request.transfer_ms,
        queue_s=None if request.assigned_at is None else request.assigned_at - start,
        ttft_s=None if request.first_token_at is None else request.first_token_at - start,
        e2e_s=now - start,
        gaps_s=request.gaps_s,
    )
