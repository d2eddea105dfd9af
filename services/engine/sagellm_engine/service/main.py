"""The life of an engine process: connect, load, serve, leave."""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TypeVar

import structlog

from sagellm_common.bus import Bus
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.self_benchmark import measure_steps
from sagellm_engine.service.models import ModelSource, resolve_model
from sagellm_engine.service.running import RunningEngine
from sagellm_engine.service.steps import Loaded, StepDone, StepThread
from sagellm_engine.service.transfer import open_transfer
from sagellm_engine.settings import EngineSettings
from sagellm_engine.transfer.layout import KvLayout

log = structlog.get_logger(__name__)
T = TypeVar("T")


async def serve(settings: EngineSettings, stop: asyncio.Event) -> None:
    """Run one engine until `stop` is set; raises a SageError if it cannot start or its step loop dies."""
    if settings.warning:
        log.warning("no_transfer", reason=settings.warning)
    async with AsyncExitStack() as stack:
        bus = await Bus.connect(settings, f"engine {settings.engine_id}")
        stack.push_async_callback(bus.close)
        source = await _unless(stop, resolve_model(settings, bus))
        if source is None:
            return
        made: asyncio.Queue[StepDone] = asyncio.Queue()
        steps = StepThread(_creator(settings, source), made.put_nowait, measure_steps, _kv_describer(settings, source))
        loaded = await _unless(stop, _load(steps, source))
        if loaded is None:
            return
        transfer = await open_transfer(settings.transport, loaded.kv)
        engine = RunningEngine(settings, bus, source, steps, made, loaded, transfer)
        stack.push_async_callback(engine.leave)
        await engine.open()
        await engine.run(stop)


async def _load(steps: StepThread, source: ModelSource) -> Loaded:
    started = time.monotonic()
    log.info("model_loading", model=source.name)
    loaded = await steps.start()
    gc.collect()
    gc.freeze()  # what a model brings stays; walking it in every full collection would stall a step
    seconds = round(time.monotonic() - started, 3)
    log.info("model_loaded", model=source.name, kind=loaded.info.kind, pages=loaded.info.num_pages, seconds=seconds)
    return loaded


def _creator(settings: EngineSettings, source: ModelSource) -> Callable[[], EngineCore]:
    config = replace(settings.core_config(), model_path=source.path)

    def create() -> EngineCore:
        # Imported here, in the step thread: a backend may import torch, which takes seconds.
        from sagellm_engine.factory import create_engine

        return create_engine(config)

    return create


def _kv_describer(settings: EngineSettings, source: ModelSource) -> Callable[[EngineCore], KvLayout | None]:
    """Return what describes a core's pages to other engines, if they are to read them."""

    def describe(core: EngineCore) -> KvLayout | None:
        if not settings.transport:
            return None
        if source.path is None:
            return core.runner.kv_layout(source.identity)
        from sagellm_engine.native.paths import cache_folder
        from sagellm_engine.weights.fingerprint import checkpoint_fingerprint

        return core.runner.kv_layout(checkpoint_fingerprint(source.path, cache_folder("packed")))

    return describe


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, T]) -> T | None:
    """Return what `work` returns, or None if `stop` is set before."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when="FIRST_COMPLETED")
        return await task if task.done() else None
    finally:
        for waiting in (task, stopped):
            waiting.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
