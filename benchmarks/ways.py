"""One deployment, live and in simulation, that a trace is played on."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from benchmarks.stack import running
from sagellm.launcher.stack import Stack
from sagellm_common.contracts.slo import NO_SLO, Slo
from sagellm_simulation.specs import EngineSpec
from sagellm_simulation.world import Scenario


@dataclass(frozen=True, slots=True)
class Way:
    """How a deployment is run. `default_slo` is what all are measured by, and promised if it is `promised`: the
    scheduler and the engines know it then."""

    name: str
    queue: str = "fifo"
    router: str = "load_balanced"
    pd: str = "off"
    roles: tuple[str, ...] = ()
    engines: int = 1
    default_slo: Slo = NO_SLO
    promised: bool = True

    @property
    def known_slo(self) -> Slo:
        return self.default_slo if self.promised else NO_SLO

    def scenario(self, engines: tuple[EngineSpec, ...]) -> Scenario:
        """The same with simulated engines."""
        return Scenario(engines=engines, queue=self.queue, router=self.router, pd=self.pd, slo=self.known_slo)

    def running(self, backend: str, model: str, env: dict[str, str]) -> AbstractAsyncContextManager[Stack]:
        """Start it, and stop it afterwards."""
        slo = self.known_slo
        told = {
            "SAGELLM_SLO_TTFT_MS": "" if slo.ttft_ms is None else str(slo.ttft_ms),
            "SAGELLM_SLO_ITL_MS": "" if slo.itl_ms is None else str(slo.itl_ms),
        }
        if self.pd != "off":
            told["SAGELLM_KV_TRANSFER"] = "nixl"
        return running(
            backend=backend,
            model=model,
            engines=self.engines,
            queue=self.queue,
            router=self.router,
            roles=self.roles,
            pd=self.pd,
            env=env | told,
        )
