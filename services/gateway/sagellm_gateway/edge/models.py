"""Text models of the served models: files found through the registry, loaded once, off the event loop."""

import asyncio
import math
import time
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import structlog

from sagellm_common.bus import Bus
from sagellm_common.contracts.registry import ModelCard, ModelQuery, ModelReply
from sagellm_common.errors import NotFound, SageError, Unavailable
from sagellm_gateway.edge.directory import ModelSource
from sagellm_gateway.text.model import TextModel

log = structlog.get_logger(__name__)
RESOLVE_TIMEOUT_S = 5.0
ASK_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A text side; the folder and revision that it was read from, none for the built-in one; until when it counts."""

    origin: tuple[str, str] | None
    texts: TextModel
    good_until: float = math.inf


@dataclass(frozen=True, slots=True)
class _Entry:
    """The newest load of one model, and for which kinds of engines it is."""

    source: ModelSource
    load: asyncio.Task[_Loaded]

    def is_good_for(self, source: ModelSource) -> bool:
        """Whether to wait for this load, or take what it gave."""
        if self.source != source or not self.load.done():
            return self.source == source
        is_failed = self.load.cancelled() or self.load.exception() is not None
        return not is_failed and time.monotonic() < self.load.result().good_until


class TextModels:
    """Cache of text models; several requests for one model wait for one load, a failed load is tried again.

    When other kinds of engines come to serve a model, the registry is asked again: a mock engine's tokenizer makes
    way for the real one, and an older revision for a newer. Files that are the same are not read again.
    """

    def __init__(self, bus: Bus, threads: Executor) -> None:
        self._bus = bus
        self._threads = threads
        self._entries: dict[str, _Entry] = {}
        self._loads: set[asyncio.Task[_Loaded]] = set()
        self._loaded: dict[str, _Loaded] = {}

    async def get(self, source: ModelSource) -> TextModel:
        """Return a model's text side; raises NotFound, Unavailable, or what is wrong with its files."""
        entry = self._entries.get(source.model)
        if entry is None or not entry.is_good_for(source):
            entry = self._entries[source.model] = _Entry(source, self._start(source))
        return (await asyncio.shield(entry.load)).texts

    async def prefetch(self, source: ModelSource) -> None:
        """Load a model before the first request asks for it; a failure is logged and left to that request."""
        try:
            await self.get(source)
        except SageError as error:
            log.warning("text_model_not_loaded", model=source.model, code=error.code, error=error.message)

    async def close(self) -> None:
        """Wait for loads under way, so that no thread outlives the event loop."""
        await asyncio.gather(*self._loads, return_exceptions=True)

    def _start(self, source: ModelSource) -> asyncio.Task[_Loaded]:
        load = asyncio.create_task(self._load(source))
        self._loads.add(load)
        load.add_done_callback(self._loads.discard)
        return load

    async def _load(self, source: ModelSource) -> _Loaded:
        before = self._loaded.get(source.model)
        try:
            origin = await self._find(source)
            loaded = await self._read(before, origin, Path(origin[0]))
        except Unavailable as error:
            if before is not None and before.origin is not None:
                log.warning("text_model_not_refreshed", model=source.model, error=error.message)
                return replace(before, good_until=time.monotonic() + ASK_AGAIN_S)
            loaded = await self._fall_back(source, before, error)
        except NotFound as error:
            loaded = await self._fall_back(source, before, error)
        self._loaded[source.model] = loaded
        return loaded

    async def _fall_back(self, source: ModelSource, before: _Loaded | None, error: SageError) -> _Loaded:
        """Read the built-in model, for mock engines alone."""
        if not source.is_mock:
            raise error
        return await self._read(before, None, builtin_model())

    async def _read(self, before: _Loaded | None, origin: tuple[str, str] | None, path: Path) -> _Loaded:
        if before is not None and before.origin == origin:
            return before
        texts = await asyncio.get_running_loop().run_in_executor(self._threads, TextModel.load, path)
        return _Loaded(origin, texts)

    async def _find(self, source: ModelSource) -> tuple[str, str]:
        """Return folder and revision: of a local model as its engine says, else as the registry says."""
        is_here = await asyncio.get_running_loop().run_in_executor(self._threads, Path(source.folder).is_dir)
        if source.folder and is_here:
            return source.folder, ""
        card = await self._resolve(source.model_id or source.model)
        return card.path, card.revision

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
