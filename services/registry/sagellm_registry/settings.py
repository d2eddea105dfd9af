"""Settings of the registry service, read once from the environment."""

import os
from pathlib import Path

from pydantic import Field

from sagellm_common.settings import ServiceSettings
from sagellm_registry.roots import split_dirs


class RegistrySettings(ServiceSettings):
    """What the registry reads; the root of its models comes from SAGE_LLM_MODEL_ROOT."""

    registry_id: str = Field(default_factory=lambda: f"registry-{os.getpid()}", description="name of this instance")
    model_dirs: str = Field(default="", description="folders of local models, separated as in PATH")
    rescan_s: float = Field(default=10.0, gt=0, description="how often the local folders are looked through, in s")
    metrics_port: int | None = Field(default=None, ge=0, le=65535, description="port of /metrics; none: not served")

    @property
    def local_dirs(self) -> tuple[Path, ...]:
        return split_dirs(self.model_dirs)
