"""Starting and stopping the stack that runs in the background."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from sagellm.cli.console import out
from sagellm.cli.hints import own_command, print_hints
from sagellm.cli.view import StartView
from sagellm.launcher.config import StackConfig
from sagellm.launcher.daemon import CHANGES, is_locked, take_lock
from sagellm.launcher.folders import run_dir
from sagellm.launcher.record import StackRecord, is_alive, read_record
from sagellm.launcher.stack import READY_TIMEOUT_S, Change
from sagellm_common.errors import Unavailable

NAME = "serve"
POLL_S = 0.05
STOP_TIMEOUT_S = 30.0


def start_background(config: StackConfig) -> None:
    """Start the background process and show its start; raises Unavailable with its words if it fails."""
    folder = run_dir(NAME)
    folder.mkdir(parents=True, exist_ok=True)
    take_lock(folder).close()
    (folder / CHANGES).unlink(missing_ok=True)
    process = _spawn(folder, config)
    view = StartView(out(), "Starting sageLLM in the background")
    with view:
        for change in _changes(folder, process):
            if change.name != "stack":
                view.change(change)
            elif change.state == "died":
                raise Unavailable(change.detail)
            elif change.state == "ready":
                break
    _show(folder)


def _spawn(folder: Path, config: StackConfig) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "sagellm.launcher.daemon", str(folder), json.dumps(asdict(config))]
    with (folder / "daemon.log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _changes(folder: Path, process: "subprocess.Popen[bytes]") -> Iterator[Change]:
    """Yield what the background process writes; raises Unavailable if it ends or takes too long."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    position = 0
    while True:
        has_ended = process.poll() is not None  # asked before reading, so that its last words are read
        lines, position = _new_lines(folder / CHANGES, position)
        yield from (Change(**json.loads(line)) for line in lines)
        if has_ended:
            words = (folder / "daemon.log").read_text(errors="replace").strip()
            raise Unavailable(words or f"the background process ended with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise Unavailable(f"not ready after {READY_TIMEOUT_S:g} s; see {folder}/logs, or stop it: sagellm stop")
        time.sleep(POLL_S)


def _new_lines(path: Path, position: int) -> tuple[list[str], int]:
    """Return the whole lines after `position`, and the position after them."""
    if not path.exists():
        return [], position
    with path.open() as file:
        file.seek(position)
        text = file.read()
    whole = text[: text.rfind("\n") + 1]
    return whole.splitlines(), position + len(whole.encode())


def _show(folder: Path) -> None:
    record = read_record(folder)
    if record is None:
        raise Unavailable(f"the background stack has ended right after its start; see {folder}/logs")
    from sagellm.client.sync import HttpClient

    with HttpClient(record.http_url) as client:
        models = client.models()
    print_hints(
        out(),
        http_url=record.http_url,
        nats_url=record.nats_url,
        model=models[0].id if models else "the model",
        folder=folder,
        stop=f"It goes on in the background; `{own_command()} stop` stops it.",
    )


def is_serving() -> bool:
    """Whether a background stack of this user runs or starts."""
    return is_locked(run_dir(NAME))


def stop_stack(record: StackRecord) -> None:
    """Stop a running stack and wait until its process is gone; ends it with force if it hangs."""
    for number, timeout_s in ((signal.SIGTERM, STOP_TIMEOUT_S), (signal.SIGKILL, 5.0)):
        try:
            os.kill(record.pid, number)
        except ProcessLookupError:
            return
        if _gone(record.pid, timeout_s):
            return
    raise Unavailable(f"process {record.pid} does not end; end it by hand: kill -9 {record.pid}")


def _gone(pid: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
