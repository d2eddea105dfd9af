"""Settings of the planner, read from the environment with the prefix `SAGELLM_`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

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
    plan_hold_s: float = Field(default=120.0, ge=0, description="engines not needed for so long are given up")
    plan_roles: bool = Field(default=False, description="let engines that can hand over be of prefill and decode roles")
    plan_offers: Path | None = Field(
        default=None, description="JSON list of engines that could be had beside those that run; without a scaler"
    )
    scaler: Literal["none", "kubernetes"] = Field(default="none", description="what starts and ends engines")
    kubernetes_url: str = Field(default="", description="API server; empty: of the cluster that this runs in")
    kubernetes_namespace: str = Field(default="default", min_length=1, description="only with a URL")
    kubernetes_token: Path | None = Field(default=None, description="file of a bearer token, only with a URL")
    kubernetes_ca: Path | None = Field(default=None, description="file of the API server's CA, only with a URL")
    metrics_port: int | None = Field(default=None, ge=0, le=65_535, description="port of /metrics; none: not served")

    @field_validator("slo_ttft_ms", "slo_itl_ms", "plan_offers", "kubernetes_token", "kubernetes_ca", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("plan_most")
    @classmethod
    def _not_below_least(cls, most: int, info: ValidationInfo) -> int:
        if most < info.data.get("plan_least", 1):
            raise ValueError(f"{most} is less than SAGELLM_PLAN_LEAST, {info.data['plan_least']}")
        return most

    @field_validator("scaler")
    @classmethod
    def _scales_what_runs(cls, scaler: str, info: ValidationInfo) -> str:
        if scaler != "none" and info.data.get("plan_offers") is not None:
            raise ValueError(
                "a scaler starts more of what runs, not engines of SAGELLM_PLAN_OFFERS: leave one of them out"
            )
        return scaler

    @field_validator("kubernetes_url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        if url and not url.startswith(("https://", "http://")):
            raise ValueError(f"{url!r} is no URL; one looks like https://10.0.0.1:6443")
        return url
