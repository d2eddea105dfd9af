"""Which processes a stack is made of: their commands and environments. Nothing is started here."""

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sagellm.launcher.config import StackConfig
from sagellm.launcher.threads import engine_thread_env, usable_cores
from sagellm_common.nats_server import MAX_PAYLOAD_BYTES, find_server

DRAIN_S = 5.0
"""How long a stopping gateway or engine lets open requests go on; the launcher waits a little longer for each."""

STOP_ORDER = ("gateway", "engine", "scheduler", "registry", "nats")
"""The gateway drains first, the bus goes last; engines of one stack go together."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child: `kind` is what it is, `name` which one; `env` comes on top of the launcher's own."""

    kind: str
    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The children in the order of their start, and where the stack will be reached."""

    children: tuple[ChildSpec, ...]
    nats_url: str
    http_url: str


def make_plan(config: StackConfig, folder: Path, *, port: int, nats_port: int) -> Plan:
    """Return the processes of a stack whose files are in `folder`; raises Unavailable without a nats-server."""
    nats_url = config.nats_url or f"nats://127.0.0.1:{nats_port}"
    children = [] if config.nats_url else [_nats(folder / "nats", nats_port)]
    common = {
        "SAGELLM_NATS_URL": nats_url,
        "SAGELLM_DEPLOYMENT": config.deployment,
        "SAGELLM_DRAIN_TIMEOUT_S": str(DRAIN_S),
        **config.env,
    }
    own = "" if config.nats_url is None else f"{socket.gethostname()}-{os.getpid()}-"
    children += [_engine(config, common, f"{own}engine-", number) for number in range(1, config.engines + 1)]
    children.append(_gateway(config, common, f"{own}gateway", port))
    children.append(_scheduler(config, common, f"{own}scheduler"))
    name = f"{own}registry"
    children.append(_service("registry", name, {**common, "SAGELLM_REGISTRY_ID": name}))
    shown_host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    return Plan(tuple(children), nats_url, f"http://{shown_host}:{port}")


def _nats(store: Path, port: int) -> ChildSpec:
    command = (find_server(), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(store), "-c", str(_conf(store)))
    return ChildSpec("nats", "nats", command)


def _conf(store: Path) -> Path:
    store.mkdir(parents=True, exist_ok=True)
    path = store / "nats.conf"
    path.write_text(f"max_payload: {MAX_PAYLOAD_BYTES}\n")
    return path


def _service(kind: str, name: str, env: Mapping[str, str]) -> ChildSpec:
    return ChildSpec(kind, name, (sys.executable, "-m", f"sagellm_{kind}"), env)


def _engine(config: StackConfig, common: Mapping[str, str], prefix: str, number: int) -> ChildSpec:
    name = f"{prefix}{number}"
    env = {**engine_thread_env(usable_cores(), config.engines), **common, "SAGELLM_ENGINE_ID": name}
    if config.model is not None:
        env["SAGELLM_MODEL"] = config.model
    if config.backend is not None:
        env["SAGELLM_BACKEND"] = config.backend
    if config.roles:
        env["SAGELLM_ENGINE_ROLE"] = config.roles[(number - 1) % len(config.roles)]
    return _service("engine", name, env)


def _gateway(config: StackConfig, common: Mapping[str, str], name: str, port: int) -> ChildSpec:
    env = {**common, "SAGELLM_GATEWAY_ID": name, "SAGELLM_HOST": config.host, "SAGELLM_PORT": str(port)}
    return _service("gateway", name, env)


def _scheduler(config: StackConfig, common: Mapping[str, str], name: str) -> ChildSpec:
    env = {**common, "SAGELLM_SCHEDULER_ID": name}
    if config.queue is not None:
        env["SAGELLM_QUEUE_POLICY"] = config.queue
    if config.router is not None:
        env["SAGELLM_ROUTER"] = config.router
    if config.pd is not None:
        env["SAGELLM_PD_POLICY"] = config.pd
    return _service("scheduler", name, env)
