"""Gateway and engine: the body of an assigned request, its cancellation, and what repairs a lossy bus."""

from typing import Any, Literal

from pydantic import Field

from sagellm_common.contracts.base import LeaderEpoch, Message
from sagellm_common.contracts.sampling import SamplingOptions
from sagellm_common.contracts.slo import Priority


class Dispatch(Message):
    """The body of one epoch of a request.

    `sampling.seed` and `sampling.max_tokens` are always set by the gateway. `delivered` holds, per choice, the tokens
    that earlier epochs have already delivered: generation continues behind them. `deadline_ms` is what remains.

    With prefill and decode apart, both engines get the body: one with `decode_engine`, the engine to which it hands
    over what it has prefilled, the other with `prefill_engine`, whose offer it waits for. Only the latter sends tokens.
    """

    request_id: str
    epoch: int
    gateway_id: str
    model: str
    incarnation: str
    leader_epoch: LeaderEpoch
    assignment_number: int
    prompt_token_ids: list[int]
    sampling: SamplingOptions
    delivered: list[list[int]] = Field(default=[], description="one list per choice; empty: none delivered")
    finished_choices: list[int] = []
    priority: Priority = Priority.NORMAL
    deadline_ms: float | None = None
    itl_ms: float | None = Field(default=None, gt=0, description="promised mean time from token to token")
    prefill_engine: str = ""
    decode_engine: str = ""


class DispatchReply(Message):
    """The engine has taken the request, or had it already; a refusal is an error reply."""

    accepted: bool = True
    duplicate: bool = False


class ResendRequest(Message):
    """Ask an engine for the tokens of a request from an index on, per choice."""

    request_id: str
    epoch: int
    choice: int = 0
    from_index: int


class Ack(Message):
    """The gateway has the final frames of these requests; the engine forgets their tokens."""

    gateway_id: str
    requests: list[tuple[str, int]]


class ControlRequest(Message):
    """An operator's order to an engine. `drain` refuses new work and finishes what runs; `resume` takes it back."""

    action: Literal["drain", "resume", "status"]


class ControlReply(Message):
    """State of the engine after the order."""

    state: Literal["starting", "ready", "draining", "stopped"]
    running: int = 0
    waiting: int = 0
    detail: dict[str, Any] = {}
