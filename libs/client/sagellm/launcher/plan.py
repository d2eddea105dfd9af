"""Which processes a stack is made of: their commands and environments. Nothing is started here."""

import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sagellm.launcher.config import StackConfig
from sagellm.launcher.threads import engine_thread_env, usable_cores
from sagellm_common.nats_server import MAX_PAYLOAD_BYTES, find_server

DRAIN_S = 5.0
"""How long a stopping gateway or engine lets open requests go on; the launcher waits a little longer for each."""

PLAN_TIMES = {"SAGELLM_PLAN_EVERY_S": "5", "SAGELLM_PLAN_LEAD_S": "10"}
"""Engines on this machine start within seconds: less foresight is needed than in a cluster."""

STOP_ORDER = ("planner", "gateway", "engine", "scheduler", "registry", "nats")
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
    """The children in the order of their start, and where the stack will be reached; `engine(number, role)` is one more
    engine."""

    children: tuple[ChildSpec, ...]
    nats_url: str
    http_url: str
    engine: Callable[[int, str], ChildSpec]


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

    def engine(number: int, role: str) -> ChildSpec:
        return _engine(config, common, f"{own}engine-{number}", role)

    children += [engine(number, _role(config, number)) for number in range(1, config.engines + 1)]
    children.append(_gateway(config, common, f"{own}gateway", port))
    children.append(_scheduler(config, common, f"{own}scheduler"))
    name = f"{own}registry"
    children.append(_service("registry", name, {**common, "SAGELLM_REGISTRY_ID": name}))
    if config.scale_to is not None:
        children.append(_planner(config, common, f"{own}planner"))
    shown_host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    return Plan(tuple(children), nats_url, f"http://{shown_host}:{port}", engine)


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


def _role(config: StackConfig, number: int) -> str:
    if config.scale_to is not None:
        return "hybrid"
    return config.roles[(number - 1) % len(config.roles)] if config.roles else ""


def _engine(config: StackConfig, common: Mapping[str, str], name: str, role: str) -> ChildSpec:
    most = config.scale_to or config.engines
    env = {**engine_thread_env(usable_cores(), most), **common, "SAGELLM_ENGINE_ID": name}
    if config.model is not None:
        env["SAGELLM_MODEL"] = config.model
    if config.backend is not None:
        env["SAGELLM_BACKEND"] = config.backend
    if role:
        env["SAGELLM_ENGINE_ROLE"] = role
    return _service("engine", name, env)


def _planner(config: StackConfig, common: Mapping[str, str], name: str) -> ChildSpec:
    env = {
        **{name: os.environ.get(name, value) for name, value in PLAN_TIMES.items()},
        **common,
        "SAGELLM_SCALER": "none",  # the launcher follows the plans itself
        "SAGELLM_PLANNER_ID": name,
        "SAGELLM_PLAN_LEAST": str(config.engines),
        "SAGELLM_PLAN_MOST": str(config.scale_to),
    }
    return ChildSpec("planner", name, (sys.executable, "-m", "sagellm_scheduler.planner"), env)


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
