"""One child process: its start, its log, its end."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import IO

from sagellm.launcher.plan import ChildSpec
from sagellm_common.errors import Unavailable

TAIL_BYTES = 16_384


class GuardLine:
    """The launcher's end of the pipe to the guard process."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe

    def add(self, group: int) -> None:
        self._write(f"+{group}\n")

    def remove(self, group: int) -> None:
        self._write(f"-{group}\n")

    def _write(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody ended the guard; the launcher goes on without it
            self._pipe.write(line.encode())
            self._pipe.flush()

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._pipe.close()


class Child:
    """A child in a session of its own, so that Ctrl-C in the terminal reaches only the launcher.

    `has_answered` is for who watches it to set; a new start takes it back.
    """

    def __init__(self, spec: ChildSpec, log: Path, guard: GuardLine) -> None:
        self.spec = spec
        self.log = log
        self.has_answered = False
        self._guard = guard
        self._process: asyncio.subprocess.Process | None = None
        self._started_at = 0.0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.returncode if self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def lived_s(self) -> float:
        """Seconds since its last start."""
        return time.monotonic() - self._started_at

    async def start(self) -> None:
        """Start it, its output going to its log; raises Unavailable if there is no such program."""
        self._started_at, self.has_answered = time.monotonic(), False
        with self.log.open("ab") as out:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self.spec.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env={**os.environ, **self.spec.env},
                    start_new_session=True,
                )
            except OSError as error:
                raise Unavailable(f"{self.spec.name} cannot be started: {error}") from error
        self._guard.add(self._process.pid)

    async def wait(self) -> int:
        """Return its exit code once it has ended, and end what it may have left behind."""
        process = self._process
        if process is None:
            return 0
        code = await process.wait()
        self.signal(signal.SIGKILL)
        self._guard.remove(process.pid)
        return code

    def signal(self, number: int) -> None:
        """Send a signal to it and to everything that it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # gone already
                os.killpg(self._process.pid, number)

    async def stop(self, grace_s: float) -> None:
        """End it: SIGTERM, and SIGKILL if it has not ended after `grace_s`."""
        if self.is_running:
            self.signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace_s):
                    await self.wait()
                return
            except TimeoutError:
                self.signal(signal.SIGKILL)
        await self.wait()

    def last_lines(self, count: int = 12) -> list[str]:
        """Return the last lines of its log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
                return log.read().decode(errors="replace").splitlines()[-count:]
        except OSError:
            return []
