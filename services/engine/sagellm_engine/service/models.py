"""Where the model's files are: a local folder, or what the registry says."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from sagellm_common.bus import Bus
from sagellm_common.contracts.registry import ModelQuery, ModelReply
from sagellm_common.errors import DeadlineExceeded, NotFound, Unavailable
from sagellm_engine.settings import EngineSettings

log = structlog.get_logger(__name__)
REGISTRY_WAIT_S = 20.0
RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model to load: the name that requests use, its folder (None: nothing to read), and what identifies it.

    `model_id` is the registry's name of it, empty for a local folder.
    """

    name: str
    path: Path | None
    identity: str
    model_id: str = ""


async def resolve_model(settings: EngineSettings, bus: Bus) -> ModelSource:
    """Find the model; raises NotFound if the registry has none by that name, Unavailable if no registry answers."""
    if settings.backend == "mock":
        return ModelSource(settings.served_model_name or settings.model_name, None, settings.model_name)
    return _local(settings) or _registered(settings, await _ask_registry(bus, settings.model_name))


def _local(settings: EngineSettings) -> ModelSource | None:
    folder = Path(settings.model_name).expanduser()
    if not folder.is_dir():
        return None
    folder = folder.resolve()
    return ModelSource(settings.served_model_name or folder.name, folder, folder.name)


def _registered(settings: EngineSettings, reply: ModelReply) -> ModelSource:
    model, path = reply.model, Path(reply.model.path)
    if not path.is_dir():
        raise NotFound(
            f"the registry says {model.model_id} is in {path}, which this engine cannot see: share the folder"
        )
    name = settings.served_model_name or model.model_id
    return ModelSource(name, path, f"{model.model_id}@{model.revision}", model.model_id)


async def _ask_registry(bus: Bus, model_id: str) -> ModelReply:
    subject = bus.settings.subjects.registry("resolve")
    deadline = time.monotonic() + REGISTRY_WAIT_S
    while True:
        try:
            return await bus.request(subject, ModelQuery(model_id=model_id), ModelReply, timeout_s=5)
        except (Unavailable, DeadlineExceeded) as error:
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"{model_id} is no local folder, and no registry answers: start one, or set SAGELLM_MODEL"
                ) from error
        await asyncio.sleep(RETRY_S)
