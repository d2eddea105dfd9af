"""Service processes for tests: started as in production, logs in a file, gone at the end, waited for by events.

async def test_it(bus: Bus, bus_settings: BusSettings, services: Services) -> None:
    engine = services.start("engine", bus_settings, engine_id="e1", backend="mock")
    await engine.up(bus)                          # answers `$SRV.PING`
    registration = await engine.registered(bus)   # an engine's entry in the bucket `engines`
    engine.terminate()
    assert await engine.wait() == 0, engine.log_text()
"""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from sagellm_common.bus import Bus
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.settings import BusSettings
from sagellm_common.subjects import encode_token

_numbers = itertools.count()
START_TIMEOUT_S = 40.0


class ServiceProcess:
    """One running `python -m sagellm_<service>`; `env` is what it got besides this process' own environment, `within`
    the command that runs it, such as one that enters a network namespace."""

    def __init__(self, service: str, env: Mapping[str, str], log: Path, within: Sequence[str] = ()) -> None:
        self.service = service
        self.env = dict(env)
        self.log = log
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("SAGELLM_")}
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*within, sys.executable, "-m", f"sagellm_{service}"],
                env={"OMP_NUM_THREADS": "1", **inherited, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Send SIGTERM: the service drains and ends."""
        self._process.send_signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """Send SIGINT, as Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it at once, as a crash would, and return when it is gone."""
        self._process.kill()
        self._process.wait()

    async def wait(self, timeout_s: float = 20.0) -> int:
        """Return its exit code once it has ended; fail with its log after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while (code := self._process.poll()) is None:
            assert time.monotonic() < deadline, f"{self.service} still runs after {timeout_s} s\n{self.log_text()}"
            await asyncio.sleep(0.005)
        return code

    def log_text(self) -> str:
        """What it has written to stdout and stderr so far."""
        return self.log.read_text(errors="replace")

    async def up(self, bus: Bus, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return once this very process answers `$SRV.PING` (by `pid` in its metadata, else by any instance)."""
        deadline = time.monotonic() + timeout_s
        while not any(_is_of(pong, self.pid) for pong in await ping(bus, self.service)):
            self._check_alive(deadline, "answer $SRV.PING")

    async def registered(self, bus: Bus, timeout_s: float = START_TIMEOUT_S) -> EngineRegistration:
        """Return the entry of this engine process in the bucket `engines`, once it is there."""
        bucket = await bus.bucket(bus.settings.subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
        key = encode_token(self.env["SAGELLM_ENGINE_ID"])
        deadline = time.monotonic() + timeout_s
        while True:
            found = await bucket.get(EngineRegistration, key)
            if found is not None and found[0].pid == self.pid:
                return found[0]
            self._check_alive(deadline, "register")
            await asyncio.sleep(0.02)

    async def logged(self, text: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return once its log contains `text`."""
        deadline = time.monotonic() + timeout_s
        while text not in self.log_text():
            self._check_alive(deadline, f"log {text!r}")
            await asyncio.sleep(0.01)

    def _check_alive(self, deadline: float, what: str) -> None:
        code = self.exit_code
        assert code is None, f"{self.service} ended with {code} and did not {what}\n{self.log_text()}"
        assert time.monotonic() < deadline, f"{self.service} did not {what} in time\n{self.log_text()}"


def start_service(service: str, env: Mapping[str, str], *, log_dir: Path, within: Sequence[str] = ()) -> ServiceProcess:
    """Start `python -m sagellm_<service>` with `env`; its log goes to a new file in `log_dir`."""
    return ServiceProcess(service, env, log_dir / f"{service}-{next(_numbers)}.log", within)


def bus_env(settings: BusSettings) -> dict[str, str]:
    """The environment that points a service at the same bus and deployment."""
    return {"SAGELLM_NATS_URL": settings.nats_url, "SAGELLM_DEPLOYMENT": settings.deployment}


class Services:
    """Starts services and ends all of them at the end; the fixture `services` gives one per test."""

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self.processes: list[ServiceProcess] = []

    def start(
        self, service: str, bus_settings: BusSettings, *, within: Sequence[str] = (), **settings: object
    ) -> ServiceProcess:
        """Start a service on a bus; keywords are settings without their prefix (`engine_id="e1"`)."""
        named = {f"SAGELLM_{name.upper()}": str(value) for name, value in settings.items()}
        process = start_service(service, {**bus_env(bus_settings), **named}, log_dir=self.log_dir, within=within)
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            process.kill()


async def ping(bus: Bus, service: str, window_s: float = 0.1) -> list[dict[str, object]]:
    """Collect the answers to one `$SRV.PING.sagellm-<service>` that come within `window_s`."""
    inbox = bus.new_inbox()
    subscription = await bus.client.subscribe(inbox)
    pongs: list[dict[str, object]] = []
    try:
        await bus.client.publish(f"$SRV.PING.sagellm-{service}", b"", reply=inbox)
        deadline = time.monotonic() + window_s
        while (left := deadline - time.monotonic()) > 0:
            msg = await subscription.next_msg(timeout=left)
            if not msg.data:
                await asyncio.sleep(max(0.0, deadline - time.monotonic()))
                break
            pongs.append(json.loads(msg.data))
    except (NatsTimeoutError, NoRespondersError):
        pass  # the window is over, or nobody listens yet
    finally:
        await subscription.unsubscribe()
    return pongs


def _is_of(pong: dict[str, object], pid: int) -> bool:
    metadata = pong.get("metadata")
    named = metadata.get("pid") if isinstance(metadata, dict) else None
    return named is None or str(named) == str(pid)
