"""How a service process lives: logs and traces set up, signals turned into one event, errors into one sentence."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import structlog

from sagellm_common.errors import SageError
from sagellm_common.settings import ServiceSettings
from sagellm_common.telemetry import configure_logs, configure_traces

log = structlog.get_logger(__name__)
Main = Callable[[asyncio.Event], Awaitable[None]]


def run(service: str, instance: str, settings: ServiceSettings, main: Main) -> None:
    """Run `main(stop)` until it returns. The first SIGTERM or SIGINT sets `stop`, the second ends the process.

    A SageError ends the process with its sentence on stderr and exit code 1.
    """
    configure_logs(service, instance, settings.log_level, settings.log_format)
    traces = configure_traces(service, instance, settings.otlp_endpoint)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_until_stopped(main))
    except SageError as error:
        sys.stderr.write(f"sagellm-{service}: {error.message}\n")
        raise SystemExit(1) from None
    finally:
        traces.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _until_stopped(main: Main) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(name: str) -> None:
        if stop.is_set():
            log.warning("stopped_at_once", signal=name)
            os._exit(130)
        log.info("stopping", signal=name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    await main(stop)
