"""The record of a running stack on disk: how other commands find it."""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sagellm.launcher.folders import runs_dir

FILE_NAME = "stack.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class StackRecord:
    """One running stack: the process that supervises it, and where it can be reached.

    `services` maps each child's name to its process id at the time of writing.
    """

    name: str
    pid: int
    http_url: str
    nats_url: str
    deployment: str
    started_at: float = field(default_factory=time.time)
    services: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it whole or not at all; only the user may read it, because the URL may hold a password."""
        temporary = folder / f".{FILE_NAME}.{os.getpid()}"
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(asdict(self), indent=2))
        temporary.replace(folder / FILE_NAME)


def read_record(folder: Path) -> StackRecord | None:
    """Return the record in `folder` if the process it names is alive; None if there is none."""
    try:
        record = StackRecord(**json.loads((folder / FILE_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None  # none there, or written by another version
    return record if is_alive(record.pid) else None


def running_stacks() -> list[StackRecord]:
    """Return all running stacks of this user, the newest first."""
    folders = runs_dir().glob("*/") if runs_dir().is_dir() else ()
    found = [record for folder in folders if (record := read_record(folder)) is not None]
    return sorted(found, key=lambda record: -record.started_at)


def newest_running() -> StackRecord | None:
    """Return the stack that was started last, None if none runs."""
    return next(iter(running_stacks()), None)


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs; one that has ended and waits to be collected does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # no /proc on this system
        return True
