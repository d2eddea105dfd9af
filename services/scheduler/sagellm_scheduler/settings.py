"""Settings of the scheduler, read from the environment with the prefix `SAGELLM_`."""

import uuid

from pydantic import Field, field_validator

from sagellm_common.errors import InvalidArgument
from sagellm_common.settings import ServiceSettings
from sagellm_scheduler.queueing.policy import QUEUE_POLICIES
from sagellm_scheduler.routing.router import ROUTERS
from sagellm_scheduler.separation.policy import SEPARATION_POLICIES


class SchedulerSettings(ServiceSettings):
    """What a scheduler reads at its start; times in seconds."""

    scheduler_id: str = Field(default_factory=lambda: f"scheduler-{uuid.uuid4().hex[:8]}", min_length=1)
    queue_policy: str = Field(
        default="slo_aware", description="a name, or `package.module:Class` of a policy of your own"
    )
    router: str = Field(default="predictive", description="a name, or `package.module:Class` of a router of your own")
    pd_policy: str = Field(
        default="adaptive",
        description="whether prefill and decode are separated: off, threshold, adaptive, or `package.module:Class`",
    )
    max_queue: int = Field(default=10_000, ge=1, description="requests that may wait; more are rejected")
    max_queue_time_s: float = Field(default=60.0, gt=0, description="how long a request may wait for an engine")
    engine_timeout_s: float = Field(default=2.0, gt=0, description="silence after which an engine counts as lost")
    slo_ttft_ms: float | None = Field(default=None, gt=0, description="SLO of requests that state none: first token")
    slo_itl_ms: float | None = Field(default=None, gt=0, description="SLO of requests that state none: between tokens")
    backlog_s: float = Field(default=0.1, gt=0, description="prefill that an engine is given ahead of time")
    admission_slack: float | None = Field(
        default=1.0,
        gt=0,
        description="a request is refused if its first token is expected later than this times its own SLO; "
        "empty: never",
    )
    metrics_port: int | None = Field(default=None, ge=0, le=65_535, description="port of /metrics; none: not served")

    @field_validator("slo_ttft_ms", "slo_itl_ms", "admission_slack", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("queue_policy")
    @classmethod
    def _known_queue_policy(cls, name: str) -> str:
        try:
            QUEUE_POLICIES.make(name, dotted=True)
        except InvalidArgument as error:
            raise ValueError(error.message) from error
        return name

    @field_validator("pd_policy")
    @classmethod
    def _known_pd_policy(cls, name: str) -> str:
        try:
            SEPARATION_POLICIES.make(name, dotted=True)
        except InvalidArgument as error:
            raise ValueError(error.message) from error
        return name

    @field_validator("router")
    @classmethod
    def _known_router(cls, name: str) -> str:
        try:
            ROUTERS.make(name, dotted=True)
        except InvalidArgument as error:
            raise ValueError(error.message) from error
        return name
