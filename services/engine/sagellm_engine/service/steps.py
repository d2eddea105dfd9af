"""The step loop in a thread of its own: commands go in through a queue, one hop per step comes back to the loop."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import structlog

from sagellm_common.errors import SageError, as_sage_error
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.types import (
    CacheChanges,
    EngineGauges,
    EngineRequest,
    FinishReason,
    FirstToken,
    Held,
    ModelInfo,
    RequestKey,
    StepOutput,
    StepReport,
    TokenOutput,
)
from sagellm_engine.kv.pool import Reserved
from sagellm_engine.service.assignments import NOTHING, Mark
from sagellm_engine.service.requests import first_indexes
from sagellm_engine.transfer.layout import KvLayout

log = structlog.get_logger(__name__)

STEPS_AHEAD = 2
"""Steps whose tokens may wait to be sent; one more is computed, then the thread waits."""

GAUGES_INTERVAL_S = 0.05
IDLE_CHECK_S = 1.0
NO_PROGRESS_WAIT_S = 0.005

Command = Callable[[EngineCore, float], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the thread has loaded."""

    info: ModelInfo
    max_batch_tokens: int
    gauges: EngineGauges
    benchmark: tuple[StepReport, ...] = ()
    kv: KvLayout | None = None


@dataclass(frozen=True, slots=True)
class StepDone:
    """What a step made, and the gauges and changes of the prefix cache if they have been read after it.

    `mark`: what was assigned up to there is in the gauges.
    """

    output: StepOutput
    gauges: EngineGauges | None
    mark: Mark
    cache: CacheChanges | None = None


class StepThread:
    """Loads and owns an engine core. Its methods are called on the event loop and never block.

    `on_step` is called on the event loop after each step; `step_sent` must follow once its tokens are sent. `on_held`
    is called there with each request that is prefilled for another engine, when it has its pages. `failed` is completed
    with the error if the loop dies.
    """

    def __init__(
        self,
        create: Callable[[], EngineCore],
        on_step: Callable[[StepDone], None],
        benchmark: Callable[[EngineCore], tuple[StepReport, ...]] = lambda core: (),
        kv_layout: Callable[[EngineCore], KvLayout | None] = lambda core: None,
    ) -> None:
        self._create, self._on_step, self._benchmark, self._kv_layout = create, on_step, benchmark, kv_layout
        self.on_held: Callable[[Held], None] = lambda held: None
        self._loop = asyncio.get_running_loop()
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._slots = threading.Semaphore(STEPS_AHEAD)
        self._stopping = False
        self._outputs: list[TokenOutput] = []
        self._pages_changed = False
        self._mark = NOTHING
        self._gauges_at = 0.0
        self._loaded: asyncio.Future[Loaded] = self._loop.create_future()
        self.failed: asyncio.Future[Exception] = self._loop.create_future()
        # A daemon, so that a process that is told to stop while a model loads does not wait for it.
        self._thread = threading.Thread(target=self._run, name="engine-steps", daemon=True)

    async def start(self) -> Loaded:
        """Load the model in the thread and start stepping; raises what loading raises."""
        self._thread.start()
        return await self._loaded

    def submit(self, request: EngineRequest) -> None:
        """Hand over a request; a refusal comes back as the error of its choices."""
        self._commands.put(lambda core, now: self._submit(core, request, now))

    def cancel(self, key: RequestKey) -> None:
        """End a request before the next step."""
        self._commands.put(lambda core, now: _cancel(core, key, now))

    def assigned(self, mark: Mark) -> None:
        """Note that everything assigned up to there has been handed over, or has been refused."""

        def note(core: EngineCore, now: float) -> None:
            self._mark = mark

        self._change_pages(note)

    def conclude(self, request: EngineRequest, finish: FinishReason, error: SageError | None = None) -> None:
        """End a request that the core never got."""
        self._commands.put(lambda core, now: self._refuse(request, finish, error))

    def release_held(self, key: RequestKey) -> None:
        """Free the pages of a request with `hold`, and stop it if it is still computed."""
        self._change_pages(lambda core, now: core.release_held(key, now))

    def reserve(self, tokens: Sequence[int], unit: int, then: Callable[[Reserved | None], None]) -> None:
        """Set pages for tokens apart, a multiple of `unit` of them from the prefix cache; `then` is called on the event
        loop with them, or None."""
        self._change_pages(lambda core, now: self._post(then, core.reserve(tokens, unit)))

    def free_reserved(self, pages: tuple[int, ...]) -> None:
        """Give reserved pages back."""
        self._change_pages(lambda core, now: core.free_reserved(pages))

    def _change_pages(self, command: Command) -> None:
        """Have something done that no step may follow, so that the gauges must be read after it."""

        def change(core: EngineCore, now: float) -> None:
            command(core, now)
            self._pages_changed = True

        self._commands.put(change)

    def adopt(self, request: EngineRequest, pages: tuple[int, ...], first: FirstToken) -> None:
        """Go on with a request behind reserved pages that hold its prompt."""
        self._commands.put(lambda core, now: self._adopt(core, request, pages, first, now))

    def step_sent(self) -> None:
        """Allow another step."""
        self._slots.release()

    async def stop(self) -> None:
        """End the loop after the step at hand; returns when the thread has ended."""
        self._stopping = True
        self._commands.put(lambda core, now: None)
        self._slots.release()
        await asyncio.to_thread(self._thread.join)

    # in the thread

    def _run(self) -> None:
        try:
            core = self._create()
            core.on_held = lambda held: self._post(self.on_held, held)
            benchmark, kv = self._benchmark(core), self._kv_layout(core)
            loaded = Loaded(core.info, core.max_batch_tokens, core.gauges(), benchmark, kv)
        except BaseException as error:
            self._post(_set_exception, self._loaded, error)
            return
        try:
            self._post(_set_result, self._loaded, loaded)
            while not self._stopping:
                self._obey(core)
                if core.has_work() and not self._stopping:  # `stop` frees a single slot, which an order may have taken
                    self._step(core)
        except Exception as error:  # the core promises not to raise: this is a bug, and it ends the engine
            log.exception("step_loop_died")
            self._post(_set_result, self.failed, error)
        finally:
            core.close()

    def _obey(self, core: EngineCore) -> None:
        """Carry out what was ordered; wait for an order if there is nothing to compute."""
        if not core.has_work():
            self._wait_for_command(core)
        while not self._commands.empty():
            self._commands.get()(core, time.monotonic())
        if self._outputs or (self._pages_changed and not core.has_work()):
            outputs, self._outputs = self._outputs, []
            self._emit(core, StepOutput(outputs))
        self._pages_changed = False

    def _wait_for_command(self, core: EngineCore) -> None:
        try:
            command = self._commands.get(timeout=IDLE_CHECK_S)
        except Empty:
            _check_invariants(core)
            command = self._commands.get()
        command(core, time.monotonic())

    def _submit(self, core: EngineCore, request: EngineRequest, now: float) -> None:
        try:
            if not core.submit(request, now) and request.hold:
                self._refuse(request, FinishReason.CANCELLED, None)  # nothing will come of it a second time
        except Exception as error:  # one request's fault must not end the others
            self._failed_to_begin(request, error)

    def _adopt(
        self, core: EngineCore, request: EngineRequest, pages: tuple[int, ...], first: FirstToken, now: float
    ) -> None:
        try:
            core.adopt(request, pages, first, now)
            self._outputs += core.take_outputs()  # now, not with the next step
        except Exception as error:  # as above
            self._failed_to_begin(request, error)

    def _failed_to_begin(self, request: EngineRequest, error: Exception) -> None:
        if not isinstance(error, SageError):
            log.error("submit_failed", request_id=request.key[0], exc_info=error)
        self._refuse(request, FinishReason.ERROR, as_sage_error(error))

    def _refuse(self, request: EngineRequest, finish: FinishReason, error: SageError | None) -> None:
        self._outputs += [
            TokenOutput(request.key, choice, first, (), None, finish, error)
            for choice, first in first_indexes(request).items()
        ]

    def _step(self, core: EngineCore) -> None:
        output = core.step(time.monotonic())
        if output.tokens or output.held or output.report.rows:
            self._emit(core, output)
        else:
            time.sleep(NO_PROGRESS_WAIT_S)

    def _emit(self, core: EngineCore, output: StepOutput) -> None:
        now = time.monotonic()
        gauges = cache = None
        if now - self._gauges_at >= GAUGES_INTERVAL_S or not core.has_work():
            self._gauges_at, gauges, cache = now, core.gauges(), core.take_cache_changes()
        self._slots.acquire()
        self._post(self._on_step, StepDone(output, gauges, self._mark, cache))

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends, and nobody listens any more
            self._loop.call_soon_threadsafe(call, *args)


def _cancel(core: EngineCore, key: RequestKey, now: float) -> None:
    core.cancel(key, now)


def _check_invariants(core: EngineCore) -> None:
    try:
        core.check_invariants()
    except SageError as error:
        log.error("invariant_violated", error=error.message)


def _set_result(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


def _set_exception(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
