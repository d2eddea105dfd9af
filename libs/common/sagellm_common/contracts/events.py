"""Events for observers: phases of requests, downloads of models."""

from typing import Any, Literal

from sagellm_common.contracts.base import Message

Phase = Literal["accepted", "queued", "assigned", "first_token", "migrated", "finished", "failed", "cancelled"]
END_PHASES: frozenset[str] = frozenset({"finished", "failed", "cancelled"})


class RequestEvent(Message):
    """A request has entered a phase; the measured figures come with the last one."""

    request_id: str
    phase: Phase
    epoch: int = 0
    gateway_id: str = ""
    engine_id: str | None = None
    model: str = ""
    time_s: float = 0.0
    queue_ms: float | None = None
    ttft_ms: float | None = None
    itl_mean_ms: float | None = None
    itl_p50_ms: float | None = None
    itl_max_ms: float | None = None
    e2e_ms: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    transfer_ms: float | None = None
    error: dict[str, Any] | None = None


class ModelEvent(Message):
    """Progress of a download, or its end."""

    model_id: str
    revision: str | None = None
    phase: Literal["downloading", "verifying", "ready", "failed", "deleted"]
    done_bytes: int = 0
    total_bytes: int | None = None
    error: dict[str, Any] | None = None
