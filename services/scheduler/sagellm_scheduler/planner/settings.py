"""Settings of the planner, read from the environment with the prefix `SAGELLM_`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from sagellm_common.settings import ServiceSettings


class PlannerSettings(ServiceSettings):
    """What a planner reads at its start; times in seconds."""

    planner_id: str = Field(default="planner", min_length=1)
    slo_ttft_ms: float | None = Field(default=None, gt=0, description="first token; as the scheduler has it")
    slo_itl_ms: float | None = Field(default=None, gt=0, description="between tokens; as the scheduler has it")
    plan_attainment: float = Field(default=0.99, gt=0, lt=1, description="share of requests that shall meet the SLOs")
    plan_least: int = Field(default=1, ge=1, description="engines that there are always")
    plan_most: int = Field(default=16, ge=1, description="engines that there are at most, of each role")
    plan_every_s: float = Field(default=30.0, gt=0, description="how often it is planned")
    plan_lead_s: float = Field(default=120.0, ge=0, description="from an engine's order to its first request")
    plan_hold_s: float = Field(default=600.0, ge=0, description="engines not needed for so long are given up")
    plan_roles: bool = Field(default=False, description="let engines that can hand over be of prefill and decode roles")
    plan_offers: Path | None = Field(
        default=None, description="JSON list of engines that could be had beside those that run"
    )
    scaler: Literal["none", "kubernetes"] = Field(default="none", description="what starts and ends engines")
    kubernetes_url: str = Field(default="", description="API server; empty: of the cluster that this runs in")
    kubernetes_namespace: str = Field(default="default", description="only with a URL")
    kubernetes_token: Path | None = Field(default=None, description="file of a bearer token, only with a URL")
    kubernetes_ca: Path | None = Field(default=None, description="file of the API server's CA, only with a URL")

    @field_validator("slo_ttft_ms", "slo_itl_ms", "plan_offers", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value
