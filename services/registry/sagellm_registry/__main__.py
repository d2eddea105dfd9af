"""`python -m sagellm_registry`: the registry service as a process."""

import asyncio

import structlog

from sagellm_common.bus import Bus
from sagellm_common.runner import run
from sagellm_common.settings import load_settings
from sagellm_common.telemetry import metrics as telemetry
from sagellm_registry.metrics import RegistryMetrics
from sagellm_registry.service import RegistryService
from sagellm_registry.settings import RegistrySettings
from sagellm_registry.store import ModelStore

log = structlog.get_logger(__name__)


async def _serve(settings: RegistrySettings, stop: asyncio.Event) -> None:
    metrics = RegistryMetrics()
    store = ModelStore(model_dirs=settings.local_dirs)
    bus = await Bus.connect(settings, settings.registry_id)
    service = RegistryService(bus, store, metrics, settings.registry_id, settings.rescan_s)
    try:
        await service.start()
        exposed = telemetry.serve(metrics.registry, settings.metrics_port)  # answering here means ready
        log.info("ready", root=str(store.root), models=len(store.list_models()))
        await stop.wait()
        if exposed is not None:
            exposed.close()
        await service.stop()
    finally:
        await bus.close()


def main() -> None:
    """Read the settings and run until a signal comes."""
    settings = load_settings(RegistrySettings)
    run("registry", settings.registry_id, settings, lambda stop: _serve(settings, stop))


if __name__ == "__main__":
    main()
