"""Advice of the planner, kept in the bucket `plans` under the model's name; scalers follow it."""

from typing import get_args

from pydantic import Field

from sagellm_common.contracts.base import Message
from sagellm_common.contracts.engines import EngineRole


class EngineGroup(Message):
    """So many engines of one kind in one role."""

    kind: str
    layout: str = Field(default="", description="how an engine is split over devices, as TP2; empty: one device")
    role: EngineRole = "hybrid"
    count: int = Field(ge=0)


class MeanTokens(Message):
    """The mean request of the last few hundred, in tokens."""

    new: float = Field(ge=1.0, description="of the prompt, without what was cached")
    output: float = Field(ge=0.0, description="of the answer")
    context: float = Field(ge=0.0, description="held while a token of an answer is made")
    products: float = Field(ge=0.0, description="sum over the prompt's new tokens of the tokens before each")
    long_prompt: float = Field(ge=0.0, description="nine prompts of ten are shorter")


class FleetPlan(Message):
    """How many engines of a model are wanted, and why."""

    model: str
    time_s: float = Field(description="seconds since the epoch")
    groups: list[EngineGroup]
    engines_now: int = Field(default=0, description="engines that are ready")
    ready: dict[EngineRole, int] = Field(default={}, description="the same by role")
    requests_per_s: float = Field(default=0.0, description="as measured over ten minutes")
    expected_per_s: float = Field(default=0.0, description="the most that is expected until new engines would serve")
    burst: float = Field(default=1.0, description="how much more than the mean comes in half a minute")
    margin: float = Field(default=1.0, description="learnt from the SLOs that were missed or met")
    attainment: float | None = Field(default=None, description="share of the SLOs met in the last five minutes")
    price_per_hour: float = 0.0
    reason: str = ""
    request: MeanTokens | None = Field(default=None, description="what the plan is made for; none: none has been seen")
    hours: list[float] = Field(default=[], description="requests a second of the hours that are over, oldest first")
    last_hour: int = Field(default=0, description="hours since the epoch of the end of the last of them")

    @property
    def count(self) -> int:
        """All engines that are wanted."""
        return sum(group.count for group in self.groups)

    def counts(self) -> dict[EngineRole, int]:
        """Return the engines that are wanted of each role, of all kinds together."""
        roles: tuple[EngineRole, ...] = get_args(EngineRole)
        return {role: sum(group.count for group in self.groups if group.role == role) for role in roles}
