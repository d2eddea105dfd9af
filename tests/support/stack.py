"""The whole stack as real processes on a real nats-server, for end-to-end and fault tests."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.reports import EngineReport
from sagellm_common.nats_server import free_port
from sagellm_common.settings import BusSettings
from support.processes import ServiceProcess, Services
from support.wait import eventually

START_TIMEOUT_S = 60.0


class LocalStack:
    """Registry, schedulers, engines and one gateway; every process can be killed on its own."""

    def __init__(self, settings: BusSettings, log_dir: Path) -> None:
        self.settings = settings
        self.services = Services(log_dir)
        self.port = free_port()
        self.engines: dict[str, ServiceProcess] = {}
        self.schedulers: dict[str, ServiceProcess] = {}
        self.gateway: ServiceProcess | None = None
        self.registry: ServiceProcess | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start_engine(self, engine_id: str, *, within: Sequence[str] = (), **settings: Any) -> ServiceProcess:
        """Start one engine, by default a mock that makes a token every 2 ms."""
        settings = dict[str, Any]({"backend": "mock", "model": "mock-model", "mock_step_ms": 2.0, **settings})
        process = self.services.start("engine", self.settings, within=within, engine_id=engine_id, **settings)
        self.engines[engine_id] = process
        return self.engines[engine_id]

    def start_scheduler(self, scheduler_id: str, **settings: Any) -> ServiceProcess:
        """Start one scheduler; the first one that gets the lease leads."""
        process = self.services.start("scheduler", self.settings, scheduler_id=scheduler_id, **settings)
        self.schedulers[scheduler_id] = process
        return process

    def start_rest(self, **gateway: Any) -> None:
        """Start the registry and the gateway."""
        self.registry = self.services.start("registry", self.settings)
        self.gateway = self.services.start("gateway", self.settings, gateway_id="g1", port=self.port, **gateway)

    async def ready(self, engines: int = 1) -> None:
        """Return once the gateway is ready and serves with at least `engines` engines."""
        deadline = time.monotonic() + START_TIMEOUT_S
        async with httpx.AsyncClient() as client:
            while not await self._is_ready(client, engines):
                assert time.monotonic() < deadline, f"not ready in {START_TIMEOUT_S} s\n{self.logs()}"
                self._check_alive()
                await asyncio.sleep(0.05)

    async def known(self, bus: Bus) -> None:
        """Return once the scheduler knows all engines that run, and has heard each of them.

        It takes a report only when it has learnt of the registration, so that the second one counts in any case.
        """
        alive = [name for name, process in self.engines.items() if process.exit_code is None]
        await self.ready(len(alive))
        counts: Counter[str] = Counter()

        def note(report: EngineReport, received: Received) -> None:
            counts[report.engine_id] += 1

        heard = await bus.subscribe(self.settings.subjects.engine_metrics("*"), EngineReport, note)
        await eventually(
            lambda: all(counts[name] >= 2 for name in alive), START_TIMEOUT_S, f"reports of {', '.join(alive)}"
        )
        await heard.unsubscribe()

    async def _is_ready(self, client: httpx.AsyncClient, engines: int) -> bool:
        try:
            if (await client.get(f"{self.url}/health/ready")).status_code != 200:
                return False
        except httpx.TransportError:
            return False
        if engines == 1:
            return True
        bus = await Bus.connect(self.settings, "stack")
        try:
            bucket = await bus.bucket(self.settings.subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
            return len(await bucket.read_all(EngineRegistration)) >= engines
        finally:
            await bus.close()

    def _check_alive(self) -> None:
        for process in self.services.processes:
            assert process.exit_code in (None, 0), f"{process.service} ended\n{process.log_text()}"

    def logs(self) -> str:
        """The last lines of every process."""
        return "\n".join(f"--- {p.service}\n{p.log_text()[-2000:]}" for p in self.services.processes)

    def stop(self) -> None:
        """End every process."""
        self.services.stop()
