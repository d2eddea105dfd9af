"""Running a stack in the foreground: start, hints, demo, and a clean end on every signal."""

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console

from sagellm.cli.console import err, out, quiet_logs
from sagellm.cli.demo import run_demo
from sagellm.cli.hints import print_hints
from sagellm.cli.view import StartView
from sagellm.client.http_async import AsyncHttpClient
from sagellm.launcher.config import StackConfig
from sagellm.launcher.folders import run_dir, runs_dir
from sagellm.launcher.record import read_record
from sagellm.launcher.stack import Stack

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def run_foreground(config: StackConfig, *, demo: bool) -> int:
    """Run a stack until a signal comes; returns the exit code. Raises Unavailable if it does not start."""
    quiet_logs()
    _remove_leftovers()
    folder = run_dir(f"up-{os.getpid()}")
    view = StartView(out(), "Starting sageLLM")
    stack = Stack(config, folder, view.change)
    stop = _stop_on_signals(stack, err())
    started_well = False
    try:
        with view:
            await _unless(stop, _start(stack))
        started_well = True
        if not stop.is_set():
            await _unless(stop, _after_start(stack, demo))
        await stop.wait()
    finally:
        await stack.stop()
        shutil.rmtree(folder if started_well else folder / "nats", ignore_errors=True)
    out().print("Everything has stopped.")
    return 0


async def _start(stack: Stack) -> None:
    await stack.start()
    await stack.wait_ready()


async def _after_start(stack: Stack, demo: bool) -> None:
    plan, console = stack.plan, out()
    async with AsyncHttpClient(plan.http_url) as client:
        models = await client.models()
        model = models[0].id if models else "the model"
        if demo:
            await run_demo(client, model, console)
    stop = "Ctrl-C stops everything."
    print_hints(console, http_url=plan.http_url, nats_url=plan.nats_url, model=model, folder=stack.folder, stop=stop)


async def _unless(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Run `work` to its end, or drop it when `stop` is set; raises what it raises."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
    await asyncio.gather(task, stopped, return_exceptions=True)
    if not task.cancelled() and not stop.is_set():
        task.result()


def _stop_on_signals(stack: Stack, console: Console) -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            console.print("Ending everything at once.", style="yellow")
            stack.kill()
            return
        console.print("\nStopping; once more to end everything at once.", style="yellow")
        stop.set()

    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    return stop


def _remove_leftovers(keep: Callable[[Path], object] = read_record) -> None:
    """Remove the folders of foreground stacks that are gone, so that old logs do not pile up."""
    for folder in runs_dir().glob("up-*/"):
        if keep(folder) is None and not _is_starting(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_starting(folder: Path) -> bool:
    from sagellm.launcher.record import is_alive

    number = folder.name.removeprefix("up-")
    return number.isdigit() and is_alive(int(number))
