"""A whole stack: started together, watched, restarted when a part dies, stopped in order."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sagellm.launcher import guard
from sagellm.launcher.backoff import Backoff
from sagellm.launcher.child import Child, GuardLine
from sagellm.launcher.config import StackConfig
from sagellm.launcher.plan import STOP_ORDER, ChildSpec, Plan, make_plan
from sagellm.launcher.ports import choose_port
from sagellm.launcher.readiness import accepts, check_bus, connect, http_status, ping_services
from sagellm.launcher.record import StackRecord
from sagellm.launcher.scaling import Scaling
from sagellm_common.bus import Bus
from sagellm_common.errors import SageError, Unavailable
from sagellm_common.nats_server import free_port

READY_TIMEOUT_S = 300.0
POLL_S = 0.05
PINGED = ("scheduler", "registry", "engine", "planner")
GRACE_S = {"planner": 3.0, "gateway": 8.0, "engine": 8.0, "scheduler": 3.0, "registry": 3.0, "nats": 3.0}

State = Literal["starting", "ready", "died", "restarting", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class Change:
    """A service has entered a state; `detail` is a sentence for a person."""

    name: str
    state: State
    detail: str = ""


class Stack:
    """All services of one deployment on this machine, as children of this process.

    `folder` gets the logs (`logs/<name>.log`), the record and the nats-server's files. `on_change` is called on the
    event loop for each change. A child that dies before the stack is ready ends the start; later it is restarted.
    """

    def __init__(self, config: StackConfig, folder: Path, on_change: Callable[[Change], None] | None = None) -> None:
        self.config = config
        self.folder = folder
        self.name = folder.name
        self.children: dict[str, Child] = {}
        self.states: dict[str, State] = {}
        self._on_change = on_change or (lambda change: None)
        self._plan: Plan | None = None
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._released: set[str] = set()
        self._deaths: asyncio.Queue[str] = asyncio.Queue()
        self._is_ready = False
        self._restarts = asyncio.Lock()
        self._guard: GuardLine | None = None
        self._scaling: Scaling | None = None
        self._guard_process: subprocess.Popen[bytes] | None = None

    @property
    def plan(self) -> Plan:
        if self._plan is None:
            raise Unavailable("the stack has not been started")
        return self._plan

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    async def start(self) -> None:
        """Start all children at once; raises Unavailable for a busy port or an absent bus, before starting any."""
        if self.config.nats_url is not None:
            await check_bus(self.config.nats_url)
        port = choose_port(self.config.host, self.config.port)
        self.logs.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.folder / "nats", ignore_errors=True)
        self._plan = make_plan(self.config, self.folder, port=port, nats_port=free_port())
        self._guard = self._start_guard()
        for spec in self.plan.children:
            await self._start_child(spec, self._guard)
        self._write_record()

    def _start_guard(self) -> GuardLine:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(guard.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._guard_process = process
        if process.stdin is None:
            raise Unavailable("the guard process has no input")
        return GuardLine(process.stdin)

    async def _start_child(self, spec: ChildSpec, line: GuardLine) -> None:
        log = self.logs / f"{spec.name}.log"
        log.unlink(missing_ok=True)
        child = self.children[spec.name] = Child(spec, log, line)
        self._report(spec.name, "starting")
        await child.start()
        self._watchers[spec.name] = asyncio.create_task(self._watch(child))

    # more and fewer engines

    def engines(self, role: str) -> list[str]:
        """Return the engines of a role that have not been released, the oldest first."""
        return [
            name
            for name, child in self.children.items()
            if child.spec.kind == "engine"
            and child.spec.env.get("SAGELLM_ENGINE_ROLE", "hybrid") == role
            and name not in self._released
        ]

    async def add_engine(self, role: str) -> str:
        """Start one more engine; returns its name. Raises Unavailable before the start of the stack."""
        if self._guard is None:
            raise Unavailable("the stack has not been started")
        specs = (self.plan.engine(number, role) for number in itertools.count(1))
        spec = next(spec for spec in specs if spec.name not in self.children)
        async with self._restarts:
            await self._start_child(spec, self._guard)
        self._write_record()
        return spec.name

    def release(self, name: str) -> None:
        """An engine is to go: it is not started again when it ends."""
        self._released.add(name)
        if self.is_ready(name):
            self._report(name, "stopping", "takes no new requests and finishes those that it has")

    def is_ready(self, name: str) -> bool:
        """Whether a child runs and has answered once; one that has not has nothing to finish."""
        child = self.children[name]
        return child.is_running and child.has_answered

    def answers(self, name: str, pid: int) -> bool:
        """Take note that an engine has registered; returns whether it is one of this stack."""
        child = self.children.get(name)
        if child is None or child.pid != pid:
            return False
        child.has_answered = True
        if self.states[name] in ("starting", "restarting"):
            self._report(name, "ready")
        return True

    async def remove_engine(self, name: str) -> None:
        """End an engine and start it no more; it should have been drained."""
        self._released.add(name)
        async with self._restarts:  # so that it is not between its start and our knowing of it
            watcher = self._watchers.pop(name)
            watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        await self._stop_child(self.children[name])
        del self.children[name], self.states[name]
        self._released.discard(name)
        self._write_record()

    def _report(self, name: str, state: State, detail: str = "") -> None:
        self.states[name] = state
        self._on_change(Change(name, state, detail))

    def _write_record(self) -> None:
        StackRecord(
            name=self.name,
            pid=os.getpid(),
            http_url=self.plan.http_url,
            nats_url=self.plan.nats_url,
            deployment=self.config.deployment,
            services={name: child.pid or 0 for name, child in self.children.items()},
        ).write(self.folder)

    # watching

    async def _watch(self, child: Child) -> None:
        """Restart a child whenever it dies once the stack is ready; before that, tell `wait_ready`."""
        backoff, name = Backoff(), child.spec.name
        while True:
            code = await child.wait()
            if name in self._released:
                self._report(name, "died", f"{_how(code)} before it had finished")
                return
            if not self._is_ready:
                self._report(name, "died", _how(code))
                self._deaths.put_nowait(name)
                return
            pause_s = backoff.died(child.lived_s)
            self._report(name, "died", f"{_how(code)}; starts again in {pause_s:g} s, log: {child.log}")
            await asyncio.sleep(pause_s)
            await self._restart(child)

    async def _restart(self, child: Child) -> None:
        self._report(child.spec.name, "restarting")
        try:
            async with self._restarts:
                await child.start()
        except SageError as error:
            self._report(child.spec.name, "died", error.message)
            return
        self._write_record()

    # readiness

    async def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once the gateway serves; raises Unavailable with a child's last words if it dies or hangs."""
        ready = asyncio.create_task(self._until_ready())
        death = asyncio.create_task(self._deaths.get())
        try:
            await asyncio.wait({ready, death}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if death.done():
                raise self._death(death.result())
            if not ready.done():
                waiting = ", ".join(name for name, state in self.states.items() if state != "ready")
                raise Unavailable(f"not ready after {timeout_s:g} s, still waiting for {waiting}; see {self.logs}")
            ready.result()
            self._is_ready = True
            await self._begin_scaling()
        finally:
            for task in (ready, death):
                task.cancel()
            await asyncio.gather(ready, death, return_exceptions=True)

    async def _begin_scaling(self) -> None:
        if self.config.scale_to is not None:
            self._scaling = Scaling(self)
            await self._scaling.start()

    def announce_ready(self) -> None:
        """Report that the whole stack serves; for observers who see nothing but the changes."""
        self._on_change(Change("stack", "ready", self.plan.http_url))

    def _death(self, name: str) -> Unavailable:
        child = self.children[name]
        words = "\n".join(f"    {line}" for line in child.last_lines())
        return Unavailable(f"{name} {_how(child.exit_code or 0)}. The end of its log:\n{words}\nWhole log: {child.log}")

    async def _until_ready(self) -> None:
        while not await accepts(self.plan.nats_url):
            await asyncio.sleep(POLL_S)
        if "nats" in self.children:
            self._report("nats", "ready", self.plan.nats_url)
        bus = await connect(self.plan.nats_url, self.config.deployment)
        try:
            while not await self._all_answer(bus):
                await asyncio.sleep(POLL_S)
        finally:
            await bus.close()

    async def _all_answer(self, bus: Bus) -> bool:
        pongs = await ping_services(bus, 0.1)
        seen = {pong.instance for pong in pongs}
        for name, child in self.children.items():
            if child.spec.kind in PINGED and name in seen:
                child.has_answered = True
                self._now_ready(name)
        if await http_status(self.plan.http_url, "/health/ready") == 200:
            for name, child in self.children.items():
                if child.spec.kind == "gateway":
                    self._now_ready(name, self.plan.http_url)
        return all(state == "ready" for state in self.states.values())

    def _now_ready(self, name: str, detail: str = "") -> None:
        if self.states[name] == "starting":
            self._report(name, "ready", detail)

    # stopping

    async def stop(self) -> None:
        """Stop everything in order: planner, gateway, engines, scheduler, registry, bus; nothing is left.

        Safe to call twice.
        """
        async with self._restarts:  # so that no child is between its start and our knowing of it
            if self._scaling is not None:
                await self._scaling.stop()
            for task in self._watchers.values():
                task.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
        self._watchers.clear()
        for kind in STOP_ORDER:
            alike = [child for child in self.children.values() if child.spec.kind == kind]
            await asyncio.gather(*(self._stop_child(child) for child in alike))
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "stack.json").unlink()
        self._stop_guard()

    async def _stop_child(self, child: Child) -> None:
        name = child.spec.name
        if self.states[name] == "stopped":  # before, and its process id may be another's by now
            return
        if child.is_running and self.states[name] != "stopping":
            self._report(name, "stopping")
        await child.stop(GRACE_S[child.spec.kind])
        self._report(name, "stopped")

    def kill(self) -> None:
        """End every child at once; `stop` still has to be awaited."""
        for child in self.children.values():
            child.signal(signal.SIGKILL)

    def _stop_guard(self) -> None:
        if self._guard is not None:
            self._guard.close()
        if self._guard_process is not None:
            self._guard_process.wait()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
