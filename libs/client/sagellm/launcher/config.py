"""What a stack consists of."""

from dataclasses import dataclass, field
from typing import get_args

from sagellm_common.contracts.engines import EngineRole
from sagellm_common.errors import InvalidArgument

DEFAULT_PORT = 8000
MAX_ENGINES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class StackConfig:
    """One stack on this machine; None leaves a choice to the service's own default.

    `nats_url` None starts a nats-server as a child on a free loopback port. `port` None takes 8000 or the next free
    one; a given port that is busy is an error. `roles` are given to the engines in turn, and prefill and decode are
    separated as `pd` says. With `scale_to`, a planner keeps as many engines as the load needs, between `engines` and so
    many, and gives the roles itself. `env` goes to every service.
    """

    model: str | None = None
    engines: int = 1
    backend: str | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    queue: str | None = None
    router: str | None = None
    roles: tuple[str, ...] = ()
    pd: str | None = None
    scale_to: int | None = None
    nats_url: str | None = None
    deployment: str = "default"
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.engines <= MAX_ENGINES:
            raise InvalidArgument(f"engines: give 1 to {MAX_ENGINES}, not {self.engines}", param="engines")
        if self.scale_to is not None and not self.engines <= self.scale_to <= MAX_ENGINES:
            raise InvalidArgument(
                f"scale: give {self.engines} to {MAX_ENGINES} engines at most, not {self.scale_to}", param="scale"
            )
        if self.scale_to is not None and self.roles:
            raise InvalidArgument(
                "scale: a planner gives the roles itself; leave out --roles, and set SAGELLM_PLAN_ROLES=true and "
                "SAGELLM_KV_TRANSFER=nixl to have engines that prefill and engines that decode",
                param="scale",
            )
        for role in self.roles:
            if role not in get_args(EngineRole):
                known = ", ".join(get_args(EngineRole))
                raise InvalidArgument(f"roles: there is no role {role!r}; known are {known}", param="roles")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise InvalidArgument(f"port: give 1 to 65535, not {self.port}", param="port")
