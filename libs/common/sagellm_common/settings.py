"""Settings: read once at the edge from the environment, prefix `SAGELLM_`; a wrong value stops the start."""

import socket
import sys
from typing import Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from sagellm_common.subjects import Subjects

S = TypeVar("S", bound=BaseSettings)


class BusSettings(BaseSettings):
    """How to reach the bus."""

    model_config = SettingsConfigDict(env_prefix="SAGELLM_", extra="ignore", frozen=True)

    nats_url: str = Field(default="nats://127.0.0.1:4222", description="server, or several separated by commas")
    nats_user: str | None = None
    nats_password: SecretStr | None = None
    inbox_prefix: str = Field(default="_INBOX", description="prefix of this process' inboxes, for permissions")
    deployment: str = Field(default="default", description="name of the deployment; part of every subject")
    connect_timeout_s: float = Field(default=10.0, gt=0, description="how long to wait for the bus at start, in s")

    @property
    def password(self) -> str | None:
        return self.nats_password.get_secret_value() if self.nats_password else None

    @property
    def subjects(self) -> Subjects:
        return Subjects(self.deployment)

    @property
    def servers(self) -> list[str]:
        """The URL of each server that `nats_url` names."""
        return [url.strip() for url in self.nats_url.split(",")]

    @property
    def safe_url(self) -> str:
        """`nats_url` without users and passwords, for messages and logs."""
        return ",".join(map(_without_user, self.servers))


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rsplit("@", 1)[-1]))


class ServiceSettings(BusSettings):
    """What every service reads."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    log_prompts: bool = Field(default=False, description="write prompts into the log, at its level debug")
    otlp_endpoint: str | None = Field(default=None, description="OTLP endpoint for traces; none: no traces")
    host_name: str = Field(default_factory=socket.gethostname)


def load_settings(cls: type[S], **overrides: object) -> S:
    """Read settings; on a wrong value print one sentence per fault and end the process with exit code 2."""
    try:
        return cls(**overrides)  # type: ignore[arg-type]  # each class validates its own fields
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            name = "_".join(str(part) for part in fault["loc"]).upper()
            sys.stderr.write(f"SAGELLM_{name}: {fault['msg']}. Correct it or unset it, then start again.\n")
        raise SystemExit(2) from None
