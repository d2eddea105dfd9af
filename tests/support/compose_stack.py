"""The services of compose.yaml as local processes: its commands, environments and nats.conf, with hosts mapped."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from sagellm_common.nats_server import NatsServer, free_port
from sagellm_common.settings import BusSettings
from support.compose import COMPOSE, ComposeService, dot_env, load, services
from support.otlp import OtlpReceiver, receiving
from support.processes import ServiceProcess, start_service

OUR = ("registry", "scheduler", "planner", "engine-prefill", "engine-decode", "engine-hybrid", "gateway")
MODELS = "/var/lib/sagellm/models"
CACHE = "/var/lib/sagellm/cache"
START_TIMEOUT_S = 90.0


@dataclass
class ComposeStack:
    """What runs: the processes by service, where HTTP and metrics answer, and the traces that have come."""

    folder: Path
    nats: NatsServer
    traces: OtlpReceiver
    processes: dict[str, ServiceProcess]
    ports: dict[str, int]

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['gateway']}"

    def settings(self, user: str, inbox: str | None = None) -> BusSettings:
        """Return the bus settings of one of the users of nats.conf."""
        return bus_settings(self.nats, user, inbox)

    def logs(self) -> str:
        """Return the last lines of every process, for a failed test."""
        return "\n".join(f"--- {name}\n{p.log_text()[-2000:]}" for name, p in self.processes.items())

    def nats_log(self) -> str:
        """Return what the nats-server has written."""
        return (self.nats.store / "nats-server.log").read_text()


def bus_settings(nats: NatsServer, user: str, inbox: str | None = None) -> BusSettings:
    """Return the settings of one user of nats.conf."""
    return BusSettings(
        nats_url=nats.url,
        nats_user=user,
        nats_password=SecretStr(dot_env()[f"NATS_{user.upper()}_PASSWORD"]),
        inbox_prefix=inbox or f"_INBOX.{user}",
    )


def start_nats(folder: Path) -> NatsServer:
    """Start a nats-server with compose's nats.conf and the passwords of its .env."""
    server = NatsServer(folder, config=COMPOSE / "nats" / "nats.conf", args=["-m", str(free_port())])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in dot_env().items():
            patch.setenv(name, value)
        server.start()
    return server


def ours(by_name: Mapping[str, ComposeService]) -> list[ComposeService]:
    return [by_name[name] for name in OUR if name in by_name]


@contextmanager
def running_stack(folder: Path, profile: str, variables: Mapping[str, str]) -> Iterator[ComposeStack]:
    """Run the services of a profile until the block ends; on entry they are ready to answer."""
    with ExitStack() as cleanup:
        traces = cleanup.enter_context(receiving())
        nats = start_nats(folder / "nats")
        cleanup.callback(nats.stop)
        stack = ComposeStack(folder, nats, traces, {}, {})
        for service in ours(services(load({**dot_env(), **variables}), profile)):
            start(stack, service)
            cleanup.callback(stack.processes[service.name].kill)
        wait_ready(stack)
        yield stack


def start(stack: ComposeStack, service: ComposeService) -> None:
    """Start one service as Compose would, on this machine's addresses."""
    python, flag, module = service.command
    assert (python, flag) == ("python", "-m")
    environment = dict(service.environment)
    port_setting = "SAGELLM_PORT" if "SAGELLM_PORT" in environment else "SAGELLM_METRICS_PORT"
    stack.ports[service.name] = free_port()
    environment[port_setting] = str(stack.ports[service.name])
    stack.processes[service.name] = start_service(
        module.removeprefix("sagellm_"),
        {
            "HOME": str(stack.folder),
            "XDG_DATA_HOME": str(stack.folder),
            **{name: _mapped(stack, value) for name, value in environment.items()},
        },
        log_dir=stack.folder,
    )


def _mapped(stack: ComposeStack, value: str) -> str:
    hosts = {
        "nats://nats:4222": stack.nats.url,
        "http://otel-collector:4317": stack.traces.endpoint,
        "0.0.0.0": "127.0.0.1",
        MODELS: str(stack.folder / "models"),
        CACHE: str(stack.folder / "cache"),
    }
    return hosts.get(value, value)


def wait_ready(stack: ComposeStack) -> None:
    """Wait until the gateway is ready and every engine is registered with the scheduler."""
    deadline = time.monotonic() + START_TIMEOUT_S
    engines = sum(name.startswith("engine") for name in stack.processes)
    while not (_is_ready(stack) and _engines(stack) == engines):
        for name, process in stack.processes.items():
            assert process.exit_code is None, f"{name} ended with {process.exit_code}\n{process.log_text()}"
        assert time.monotonic() < deadline, stack.logs()
        time.sleep(0.1)


def _is_ready(stack: ComposeStack) -> bool:
    try:
        return httpx.get(f"{stack.http_url}/health/ready", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _engines(stack: ComposeStack) -> int:
    try:
        text = httpx.get(f"http://127.0.0.1:{stack.ports['scheduler']}/metrics", timeout=5, trust_env=False).text
    except httpx.HTTPError:
        return 0
    counts = [
        line.split()[-1] for line in text.splitlines() if line.startswith('sagellm_scheduler_engines{state="ready"')
    ]
    return int(float(counts[0])) if counts else 0


def ask(stack: ComposeStack, max_tokens: int = 8) -> str:
    """Send one chat request over HTTP and return the answer."""
    body = {"messages": [{"role": "user", "content": "Tell me a story about a cat."}], "max_tokens": max_tokens}
    answer = httpx.post(f"{stack.http_url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, f"{answer.text}\n{stack.logs()}"
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text
