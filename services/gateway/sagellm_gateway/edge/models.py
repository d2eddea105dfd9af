"""Text models of the served models: files found through the registry, loaded once, off the event loop."""

import asyncio
from concurrent.futures import Executor
from importlib.resources import files
from pathlib import Path

import structlog

from sagellm_common.bus import Bus
from sagellm_common.contracts.registry import ModelCard, ModelQuery, ModelReply
from sagellm_common.errors import NotFound, SageError, Unavailable
from sagellm_gateway.text.model import TextModel

log = structlog.get_logger(__name__)
RESOLVE_TIMEOUT_S = 5.0


class TextModels:
    """Cache of text models; several requests for one model wait for one load, a failed load is tried again."""

    def __init__(self, bus: Bus, threads: Executor) -> None:
        self._bus = bus
        self._threads = threads
        self._loads: dict[str, asyncio.Task[TextModel]] = {}

    async def get(self, model: str, *, is_mock: bool) -> TextModel:
        """Return a model's text side; raises NotFound, Unavailable, or what is wrong with its files."""
        load = self._loads.get(model)
        if load is None or (load.done() and (load.cancelled() or load.exception() is not None)):
            load = self._loads[model] = asyncio.create_task(self._load(model, is_mock))
        return await asyncio.shield(load)

    async def prefetch(self, model: str, *, is_mock: bool) -> None:
        """Load a model before the first request asks for it; a failure is logged and left to that request."""
        try:
            await self.get(model, is_mock=is_mock)
        except SageError as error:
            log.warning("text_model_not_loaded", model=model, code=error.code, error=error.message)

    async def close(self) -> None:
        """Wait for loads under way, so that no thread outlives the event loop."""
        await asyncio.gather(*self._loads.values(), return_exceptions=True)

    async def _load(self, model: str, is_mock: bool) -> TextModel:
        path = await self._find(model, is_mock)
        return await asyncio.get_running_loop().run_in_executor(self._threads, TextModel.load, path)

    async def _find(self, model: str, is_mock: bool) -> Path:
        try:
            return Path((await self._resolve(model)).path)
        except (NotFound, Unavailable):
            if not is_mock:
                raise
            return builtin_model()

    async def _resolve(self, model: str) -> ModelCard:
        subject = self._bus.settings.subjects.registry("resolve")
        query = ModelQuery(model_id=model)
        reply: ModelReply = await self._bus.request(subject, query, ModelReply, timeout_s=RESOLVE_TIMEOUT_S)
        if reply.card is None:
            raise NotFound(f"the registry has no card for {model!r}", param="model")
        return reply.card


def builtin_model() -> Path:
    """Return the folder of the model that ships with the registry: its tokenizer serves mock engines."""
    folder = Path(str(files("sagellm_registry"))) / "builtin"
    found = sorted(file.parent for file in folder.glob("*/tokenizer.json"))
    with_chat = [path for path in found if (path / "chat_template.jinja").is_file()]
    if not found:
        raise NotFound("no built-in model is installed, so mock engines have no tokenizer")
    return (with_chat or found)[0]
