"""The registry on the bus: list, resolve, download, delete, touch, tag."""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from opentelemetry import trace

from sagellm_common.bus import Bucket, Bus, MicroService, Received, tracing
from sagellm_common.bus.restoring import after_reconnect
from sagellm_common.codec import M
from sagellm_common.contracts.base import Message
from sagellm_common.contracts.events import ModelEvent, RequestEvent
from sagellm_common.contracts.registry import (
    DownloadReply,
    DownloadRequest,
    ListQuery,
    ListReply,
    ModelQuery,
    ModelReply,
    TagRequest,
)
from sagellm_common.errors import SageError, Unavailable, as_sage_error
from sagellm_common.subjects import REGISTRY_QUEUE
from sagellm_registry.catalog import Catalog
from sagellm_registry.downloads import Downloads
from sagellm_registry.ids import DEFAULT_REVISION, check_model_id, check_revision
from sagellm_registry.metrics import RegistryMetrics
from sagellm_registry.store import ModelStore

log = structlog.get_logger(__name__)
NOTE_EVERY_S = 30.0
tracer = trace.get_tracer("sagellm.registry")
Reply = TypeVar("Reply", bound=Message)


class RegistryService:
    """Answers for one store. Everything that touches the disk runs in a thread."""

    def __init__(
        self, bus: Bus, store: ModelStore, metrics: RegistryMetrics, registry_id: str, rescan_s: float
    ) -> None:
        self._bus, self._store, self._metrics = bus, store, metrics
        self._id, self._rescan_s = registry_id, rescan_s
        self._downloads = Downloads(bus, store, metrics)
        self._noted: dict[str, float] = {}

    async def start(self) -> None:
        """Publish the cards and serve; on return the endpoints stand."""
        self._catalog = Catalog(await self._open_bucket(), self._open_bucket, self._store)
        await self._catalog.adopt()
        self._metrics.models.set(await self._catalog.sync())
        after_reconnect(self._bus, "model cards", self._catalog.restore)
        metadata = {"id": self._id, "pid": str(os.getpid())}
        self._micro = await MicroService.start(self._bus, "registry", "models and their files", metadata)
        await self._serve("list", ListQuery, self._list)
        await self._serve("resolve", ModelQuery, self._resolve)
        await self._serve("download", DownloadRequest, self._download)
        await self._serve("delete", ModelQuery, self._delete)
        await self._serve("touch", ModelQuery, self._touch)
        await self._serve("tag", TagRequest, self._tag)
        await self._bus.subscribe(
            self._bus.settings.subjects.request_event("first_token"), RequestEvent, self._used, queue=REGISTRY_QUEUE
        )
        await self._bus.flush()
        self._rescans = asyncio.create_task(self._rescan())

    async def stop(self) -> None:
        """Withdraw from the bus and stop downloads."""
        self._rescans.cancel()
        await asyncio.gather(self._rescans, return_exceptions=True)
        await self._micro.stop()
        await self._downloads.close()

    async def _open_bucket(self) -> Bucket:
        return await self._bus.bucket(self._bus.settings.subjects.bucket("models"))

    async def _serve(self, verb: str, request: type[M], answer: Callable[[M], Awaitable[Reply]]) -> None:
        async def handle(message: M, received: Received) -> Reply:
            start, code = time.monotonic(), "ok"
            try:
                return await answer(message)
            except Exception as error:
                code = as_sage_error(error).code
                raise
            finally:
                self._metrics.requests.labels(verb, code).inc()
                self._metrics.seconds.labels(verb).observe(time.monotonic() - start)

        subject = self._bus.settings.subjects.registry(verb)
        await self._micro.add_endpoint(verb, subject, request, handle, queue=REGISTRY_QUEUE)

    async def _list(self, query: ListQuery) -> ListReply:
        models = await asyncio.to_thread(self._store.list_models)
        return ListReply(models=[model for model in models if query.tags.items() <= model.tags.items()])

    async def _resolve(self, query: ModelQuery) -> ModelReply:
        with tracer.start_as_current_span("registry.resolve", attributes={"gen_ai.request.model": query.model_id}):
            return await asyncio.to_thread(self._resolved, query)

    def _resolved(self, query: ModelQuery) -> ModelReply:
        model = self._store.get_model(query.model_id, query.revision)
        card = self._store.get_card(model.model_id, model.revision)
        commit = self._store.get_commit(model.model_id, model.revision)
        return ModelReply(model=model, card=card, detail={"commit": commit} if commit else {})

    async def _download(self, request: DownloadRequest) -> DownloadReply:
        check_model_id(request.model_id)
        revision = check_revision(request.revision or DEFAULT_REVISION)
        if await asyncio.to_thread(self._store.has_model, request.model_id, revision):
            model = await asyncio.to_thread(self._store.get_model, request.model_id, revision)
            return DownloadReply(status="present", model=model)
        started = self._downloads.start(request.model_id, revision)
        return DownloadReply(status="started" if started else "running")

    async def _delete(self, query: ModelQuery) -> ModelReply:
        if self._downloads.is_running(query.model_id, query.revision):
            raise Unavailable(f"Model '{query.model_id}' is being downloaded: delete it afterwards", retry_after_s=5.0)
        model = await asyncio.to_thread(self._store.delete_model, query.model_id, query.revision)
        await self._sync()
        event = ModelEvent(model_id=model.model_id, revision=model.revision, phase="deleted")
        await self._bus.publish(self._bus.settings.subjects.model_event(model.model_id), event)
        return ModelReply(model=model)

    async def _touch(self, query: ModelQuery) -> ModelReply:
        return ModelReply(model=await asyncio.to_thread(self._store.touch_model, query.model_id, query.revision))

    async def _tag(self, request: TagRequest) -> ModelReply:
        model = await asyncio.to_thread(self._store.tag_model, request.model_id, request.tags)
        await self._sync()
        return ModelReply(model=model)

    def _used(self, event: RequestEvent, received: Received) -> None:
        """A model has answered a request: note when, at most every half minute for each model."""
        now = time.monotonic()
        if event.model and now - self._noted.get(event.model, -NOTE_EVERY_S) >= NOTE_EVERY_S:
            self._noted[event.model] = now
            with tracing.continued(received.headers):
                self._bus.spawn(self._note(event.model))

    async def _note(self, model_id: str) -> None:
        with tracer.start_as_current_span("registry.touch", attributes={"gen_ai.request.model": model_id}):
            try:
                await asyncio.to_thread(self._store.touch_model, model_id)
            except SageError as error:  # a model that is not here, such as that of a mock engine
                log.debug("use_not_noted", model=model_id, code=error.code)
            except OSError as error:
                log.warning("use_not_noted", model=model_id, error=str(error))

    async def _sync(self) -> None:
        self._metrics.models.set(await self._catalog.sync())

    async def _rescan(self) -> None:
        """Look for models that were put into or taken from the folders by hand, and after each download."""
        while True:
            with contextlib.suppress(TimeoutError):  # nothing was downloaded meanwhile
                async with asyncio.timeout(self._rescan_s):  # wait_for can swallow a cancellation (Python 3.11)
                    await self._downloads.changed.wait()
            self._downloads.changed.clear()
            try:
                await self._sync()
            except SageError as error:
                log.warning("cards_not_published", error=error.message)
            except Exception:
                log.exception("rescan_failed")
