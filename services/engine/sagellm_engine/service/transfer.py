"""The thread that drives a transport: asleep while nothing is read on either side."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import structlog

from sagellm_engine.transfer.layout import KvLayout
from sagellm_engine.transfer.reads import PageRead, PageReads
from sagellm_engine.transfer.registry import make_transport
from sagellm_engine.transfer.transport import Transport, memory_of

log = structlog.get_logger(__name__)
POLL_S = 0.0002


class TransferThread:
    """Owns a transport that reads into the pages of `layout`, and lets others read them.

    Its methods are called on the event loop and never block. `on_read_ended` and `on_recreated` are called there.
    `agent` is what other engines need to read from here.
    """

    def __init__(self, name: str, create: Callable[[], Transport], layout: KvLayout) -> None:
        self.name, self.layout = name, layout
        self.agent = b""
        self.on_read_ended: Callable[[int, bool], None] = lambda handle, ok: None
        self.on_recreated: Callable[[], None] = lambda: None
        self._create = create
        self._loop = asyncio.get_running_loop()
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._is_stopping = self._is_read = False
        self._thread = threading.Thread(target=self._run, name="kv-transfer", daemon=True)

    async def start(self) -> None:
        """Open the transport; raises Unavailable where it cannot be used."""
        self._thread.start()
        await self._opened

    def read(self, read: PageRead) -> None:
        """Have pages read."""
        self._commands.put(lambda: self._reads.start(read))

    def be_read(self, is_read: bool) -> None:
        """Drive the transport while other engines may read from here."""
        self._commands.put(lambda: setattr(self, "_is_read", is_read))

    def recreate(self) -> None:
        """Open the transport anew: all reads end with the old one, and `agent` is another then."""
        self._commands.put(self._recreate)

    async def stop(self) -> None:
        """Close the transport; returns when the thread has ended."""
        self._is_stopping = True
        self._commands.put(lambda: None)
        await asyncio.to_thread(self._thread.join)

    # in the thread

    def _run(self) -> None:
        try:
            self._open()
        except BaseException as error:
            self._post(self._opened.set_exception, error)
            return
        self._post(self._opened.set_result, None)
        try:
            while not self._is_stopping:
                self._turn()
        except Exception:  # hand-offs end without it, by their own patience, and prompts are prefilled where they are
            log.exception("transfer_thread_died")
        finally:
            self._transport.close()

    def _turn(self) -> None:
        """Wait for an order if nothing is under way; carry out what was ordered; see what has ended."""
        if not self._is_read and not self._reads.num_under_way:
            self._commands.get()()
        while not self._commands.empty():
            self._commands.get()()
        for handle, ok in self._reads.poll():
            self._post(lambda handle, ok: self.on_read_ended(handle, ok), handle, ok)
        if self._is_read or self._reads.num_under_way:
            time.sleep(POLL_S)

    def _open(self) -> None:
        self._transport = self._create()
        self.agent = self._transport.open(memory_of(self.layout))
        self._reads = PageReads(self._transport, self.layout)

    def _recreate(self) -> None:
        log.warning("transfer_agent_recreated", reads=self._reads.num_under_way)
        self._transport.close()
        self._open()
        self._post(lambda: self.on_recreated())

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(call, *args)


async def open_transfer(name: str, layout: KvLayout | None) -> TransferThread | None:
    """Make an engine's pages readable by the transport of this name; None without pages or a name.

    Raises Unavailable where the transport cannot be used, InvalidArgument for one that there is not.
    """
    if layout is None or not name:
        return None
    thread = TransferThread(name, lambda: make_transport(name), layout)
    await thread.start()
    return thread
