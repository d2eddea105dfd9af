"""Settings of the gateway, from `SAGELLM_…`."""

import secrets

from pydantic import Field

from sagellm_common.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """What a gateway reads from its environment."""

    gateway_id: str = Field(
        default_factory=lambda: f"gateway-{secrets.token_hex(4)}",
        min_length=1,
        max_length=128,
        description="name of this gateway on the bus; unique among those that run",
    )
    host: str = Field(default="127.0.0.1", description="address that HTTP listens on")
    port: int = Field(default=8000, ge=0, le=65535, description="port that HTTP listens on; 0: any free one")
    default_model: str | None = Field(default=None, description="model of requests that name none")
    default_max_tokens: int | None = Field(
        default=None, ge=1, description="tokens for requests that do not limit them; none: what fits the context"
    )
    max_open_requests: int = Field(default=10_000, ge=1, description="requests open at once; more are refused")
    engine_timeout_s: float = Field(
        default=2.0, gt=0, description="silence after which an engine is lost; the same value as the scheduler's"
    )
    drain_timeout_s: float = Field(default=30.0, ge=0, description="time that open requests get on SIGTERM")
    slow_client_timeout_s: float = Field(
        default=30.0, gt=0, description="how long a client may leave its full buffer unread"
    )
