"""The background process of `sagellm serve`: holds the lock, runs the stack, writes what happens as JSON lines.

Called as `python -m sagellm.launcher.daemon FOLDER CONFIG`, the configuration as JSON.
"""

import asyncio
import fcntl
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO

from sagellm.launcher.config import StackConfig
from sagellm.launcher.stack import Change, Stack
from sagellm_common.errors import SageError, Unavailable

CHANGES = "changes.jsonl"
LOCK = "lock"


def take_lock(folder: Path) -> IO[str]:
    """Return the held lock of a folder; raises Unavailable if another process holds it. Closing it gives it back."""
    lock = (folder / LOCK).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise Unavailable(
            "a background stack runs already: see `sagellm status`, stop it with `sagellm stop`"
        ) from error
    return lock


def is_locked(folder: Path) -> bool:
    """Whether a background process holds the folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        take_lock(folder).close()
    except Unavailable:
        return True
    return False


async def run(folder: Path, config: StackConfig) -> int:
    """Run a stack until SIGTERM; returns the exit code."""
    with (folder / CHANGES).open("w", buffering=1) as changes:
        stack = Stack(config, folder, lambda change: _write(changes, change))
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        try:
            await _serve(stack, stop)
        except SageError as error:
            _write(changes, Change("stack", "died", error.message))
            return 1
        finally:
            await stack.stop()
        _write(changes, Change("stack", "stopped"))
    return 0


async def _serve(stack: Stack, stop: asyncio.Event) -> None:
    await stack.start()
    ready = asyncio.create_task(stack.wait_ready())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        ready.result()
        stack.announce_ready()
        await stopped
    ready.cancel()
    await asyncio.gather(ready, return_exceptions=True)


def _write(changes: IO[str], change: Change) -> None:
    changes.write(json.dumps(asdict(change)) + "\n")


def main() -> None:
    """Run in the background; whoever holds the lock already keeps it."""
    folder, config = Path(sys.argv[1]), StackConfig(**json.loads(sys.argv[2]))
    try:
        lock = take_lock(folder)
    except SageError as error:
        sys.stderr.write(f"{error.message}\n")
        raise SystemExit(1) from None
    with lock:
        raise SystemExit(asyncio.run(run(folder, config)))


if __name__ == "__main__":
    main()
