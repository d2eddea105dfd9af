"""The step thread: order, back-pressure, refusals, death."""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from sagellm_common.errors import Internal, InvalidArgument, NotFound, SageError
from sagellm_engine.core.config import EngineConfig, MockConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.types import EngineRequest, FinishReason, SamplingParams, StepOutput, TokenOutput
from sagellm_engine.factory import create_engine
from sagellm_engine.service import steps
from sagellm_engine.service.steps import STEPS_AHEAD, StepDone, StepThread

CONFIG = EngineConfig(backend="mock", num_pages=64, mock=MockConfig(max_model_len=256))


def _request(name: str = "r", max_tokens: int = 5, prompt: tuple[int, ...] = (1, 2)) -> EngineRequest:
    return EngineRequest(key=(name, 0), prompt_token_ids=prompt, sampling=SamplingParams(max_tokens=max_tokens))


class _Running:
    """A step thread whose outputs are collected; `answer` says whether each is acknowledged as sent."""

    def __init__(self, create: Callable[[], EngineCore], answer: bool = True) -> None:
        self.made: asyncio.Queue[StepDone] = asyncio.Queue()
        self.answer = answer
        self.steps = StepThread(create, self.made.put_nowait)

    async def next(self) -> StepDone:
        done = await asyncio.wait_for(self.made.get(), 5)
        if self.answer:
            self.steps.step_sent()
        return done

    async def until_end(self) -> list[TokenOutput]:
        found: list[TokenOutput] = []
        while not any(output.finish for output in found):
            found += (await self.next()).output.tokens
        return found


@contextmanager
def _raising(core: EngineCore, error: Exception) -> Iterator[EngineCore]:
    def step(now: float) -> StepOutput:
        raise error

    core.step = step  # type: ignore[method-assign]  # the fault under test
    yield core


async def test_tokens_come_back_in_the_order_of_the_steps() -> None:
    """Everything that a request makes arrives on the event loop, in order, from another thread."""
    thread_ids: set[int] = set()

    def create() -> EngineCore:
        thread_ids.add(threading.get_ident())
        return create_engine(CONFIG)

    running = _Running(create)
    loaded = await running.steps.start()
    assert thread_ids.isdisjoint({threading.get_ident()})
    assert (loaded.info.backend, loaded.gauges.pages_total) == ("mock", 64)
    running.steps.submit(_request())
    outputs = await running.until_end()
    assert [output.first_index for output in outputs] == [0, 1, 2, 3, 4]
    await running.steps.stop()


async def test_a_slow_sender_holds_the_steps_back() -> None:
    """At most STEPS_AHEAD steps are handed over before the first of them has been sent."""
    running = _Running(lambda: create_engine(CONFIG), answer=False)
    await running.steps.start()
    running.steps.submit(_request(max_tokens=100))
    made = [await running.next() for _ in range(STEPS_AHEAD)]
    await asyncio.sleep(0.1)  # time in which an unbounded loop would make thousands
    assert running.made.empty()
    running.steps.step_sent()
    made.append(await running.next())
    assert [done.output.tokens[0].first_index for done in made] == list(range(STEPS_AHEAD + 1))
    await running.steps.stop()


async def test_the_gauges_come_with_the_last_step() -> None:
    """When nothing is left to do the gauges are current."""
    running = _Running(lambda: create_engine(CONFIG))
    await running.steps.start()
    running.steps.submit(_request())
    last = await running.next()
    while not last.output.tokens[0].finish:
        last = await running.next()
    assert last.gauges is not None
    assert last.gauges.running == 0
    await running.steps.stop()


@pytest.mark.parametrize("error", [InvalidArgument("no"), ValueError("a bug")])
async def test_a_refusal_of_the_core_ends_the_request_and_no_other(error: Exception) -> None:
    """What `submit` raises comes back as the error of the request's choices; a bug is told as internal."""
    core = create_engine(CONFIG)
    submit = core.submit

    def refuse(request: EngineRequest, now: float) -> bool:
        if request.key[0] == "bad":
            raise error
        return submit(request, now)

    core.submit = refuse  # type: ignore[method-assign]  # the fault under test
    running = _Running(lambda: core)
    await running.steps.start()
    running.steps.submit(_request("bad"))
    refused = (await running.next()).output.tokens[0]
    assert (refused.key, refused.finish) == (("bad", 0), FinishReason.ERROR)
    assert isinstance(refused.error, SageError)
    assert refused.error.code == ("invalid_argument" if isinstance(error, InvalidArgument) else "internal")
    running.steps.submit(_request("good"))
    assert {output.key[0] for output in await running.until_end()} == {"good"}
    await running.steps.stop()


async def test_a_cancel_ends_a_request_before_the_next_step() -> None:
    """The end of a cancelled request is the next thing that is told of it."""
    running = _Running(lambda: create_engine(CONFIG))
    await running.steps.start()
    running.steps.submit(_request(max_tokens=200))
    await running.next()
    running.steps.cancel(("r", 0))
    outputs = await running.until_end()
    assert outputs[-1].finish is FinishReason.CANCELLED
    assert len(outputs) <= STEPS_AHEAD + 2
    await running.steps.stop()


async def test_a_stop_is_not_held_up_by_a_refusal() -> None:
    """The loop ends though nobody takes what it makes and a refusal is waiting to be sent as well."""
    core = create_engine(CONFIG)
    submit, refused = core.submit, threading.Event()

    def refuse(request: EngineRequest, now: float) -> bool:
        if request.key[0] == "bad":
            refused.set()
            raise InvalidArgument("no")
        return submit(request, now)

    core.submit = refuse  # type: ignore[method-assign]  # the fault under test
    running = _Running(lambda: core, answer=False)
    await running.steps.start()
    running.steps.submit(_request(max_tokens=100))
    for _ in range(STEPS_AHEAD):
        await running.next()
    running.steps.submit(_request("bad"))
    running.steps.step_sent()
    assert await asyncio.to_thread(refused.wait, 5)
    await asyncio.wait_for(running.steps.stop(), 5)


async def test_a_failed_load_is_raised_by_start() -> None:
    """What loading raises reaches the caller of `start`, class and all."""

    def create() -> EngineCore:
        raise NotFound("no such folder")

    with pytest.raises(NotFound, match="no such folder"):
        await _Running(create).steps.start()


async def test_a_dying_loop_reports_its_cause() -> None:
    """A step that raises ends the thread, and `failed` says with what."""
    with _raising(create_engine(CONFIG), ZeroDivisionError("a bug")) as core:
        running = _Running(lambda: core)
        await running.steps.start()
        running.steps.submit(_request())
        error = await asyncio.wait_for(running.steps.failed, 5)
    assert isinstance(error, ZeroDivisionError)
    await running.steps.stop()


async def test_pages_that_do_not_add_up_are_logged_and_kill_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle engine checks its invariants; a violation is told, and the engine goes on."""
    core = create_engine(CONFIG)
    told: queue.Queue[str] = queue.Queue()

    def check() -> None:
        raise Internal("KV pages do not add up")

    core.check_invariants = check  # type: ignore[method-assign]  # the fault under test
    log = SimpleNamespace(error=lambda event, error: told.put(error))
    monkeypatch.setattr(steps, "log", log)
    running = _Running(lambda: core)
    await running.steps.start()
    assert await asyncio.to_thread(told.get, timeout=5) == "KV pages do not add up"
    running.steps.submit(_request())
    await running.until_end()
    await running.steps.stop()
