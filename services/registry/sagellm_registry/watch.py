"""Calling something at a steady pace while a block runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL_S = 0.25


@contextmanager
def watched(report: Callable[[], None]) -> Iterator[None]:
    """Call `report` from a thread every quarter of a second until the block ends, and once at its end."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(INTERVAL_S):
            report()

    thread = threading.Thread(target=run, name="download-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    report()
