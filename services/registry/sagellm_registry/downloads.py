"""Downloads asked for over the bus: one per model at a time, in a thread, with progress as events."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from sagellm_common.bus import Bus
from sagellm_common.contracts.events import ModelEvent
from sagellm_common.contracts.registry import ModelInfo
from sagellm_common.errors import SageError, as_sage_error
from sagellm_registry.metrics import RegistryMetrics
from sagellm_registry.progress import Throttle
from sagellm_registry.store import ModelStore

log = structlog.get_logger(__name__)
MAX_AT_ONCE = 4


class Downloads:
    """Runs downloads, a few at once; a second request for a model joins the first.

    They have threads of their own, so that however many are wanted, the registry goes on answering. `changed` is set
    after each success.
    """

    def __init__(self, bus: Bus, store: ModelStore, metrics: RegistryMetrics) -> None:
        self._bus, self._store, self._metrics = bus, store, metrics
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="download")
        self.changed = asyncio.Event()

    def is_running(self, model_id: str, revision: str | None) -> bool:
        """Whether the model is being downloaded; without a revision: any revision of it."""
        return any(key[0] == model_id and revision in (None, key[1]) for key in self._running)

    def start(self, model_id: str, revision: str) -> bool:
        """Start a download and return True, or return False because it runs already."""
        key = (model_id, revision)
        if key in self._running:
            return False
        task = asyncio.create_task(self._run(*key))
        self._running[key] = task
        self._metrics.downloads.set(len(self._running))
        task.add_done_callback(lambda _: self._ended(key))
        return True

    def _ended(self, key: tuple[str, str]) -> None:
        del self._running[key]
        self._metrics.downloads.set(len(self._running))

    async def close(self) -> None:
        """Stop all downloads; what they have fetched stays for the next attempt."""
        self._stop.set()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        self._threads.shutdown(wait=False)

    async def _run(self, model_id: str, revision: str) -> None:
        await self._tell(model_id, revision, "downloading")
        try:
            loop = asyncio.get_running_loop()
            info = await loop.run_in_executor(self._threads, self._fetch, model_id, revision, loop)
        except Exception as error:
            if not isinstance(error, SageError):
                log.exception("download_failed", model=model_id, revision=revision)
            known = as_sage_error(error)
            self._metrics.failures.labels(known.code).inc()
            log.warning("download_failed", model=model_id, revision=revision, code=known.code, error=known.message)
            await self._tell(model_id, revision, "failed", error=known.to_dict())
            return
        self._metrics.downloaded.inc(info.size)
        log.info("model_downloaded", model=model_id, revision=revision, size=info.size)
        self.changed.set()
        await self._tell(model_id, revision, "ready", done_bytes=info.size, total_bytes=info.size)

    def _fetch(self, model_id: str, revision: str, loop: asyncio.AbstractEventLoop) -> ModelInfo:
        """Runs in a thread; reports cross to the event loop, which alone may publish."""
        throttle = Throttle()

        def report(phase: str, done_bytes: int, total_bytes: int) -> None:
            if throttle.admits(phase, done_bytes, total_bytes, time.monotonic()):
                work = self._tell(model_id, revision, phase, done_bytes=done_bytes, total_bytes=total_bytes)
                asyncio.run_coroutine_threadsafe(work, loop)

        return self._store.download_model(model_id, revision, progress=False, on_progress=report, stop=self._stop)

    async def _tell(self, model_id: str, revision: str, phase: str, **facts: Any) -> None:
        event = ModelEvent.model_validate({"model_id": model_id, "revision": revision, "phase": phase, **facts})
        try:
            await self._bus.publish(self._bus.settings.subjects.model_event(model_id), event)
        except SageError as error:  # an observer misses one event; the download itself goes on
            log.warning("event_not_sent", model=model_id, phase=phase, error=error.message)
