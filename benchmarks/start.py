"""How long starting takes: `--version`, `--help`, and from `sagellm up` to the first token of the built-in model."""

import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.request
from typing import Any

from sagellm_common.nats_server import free_port

REPEATS = 5


def command_seconds(*arguments: str) -> float:
    """Median wall time of a `sagellm` command."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run(["sagellm", *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return round(statistics.median(times), 3)


def up_to_first_token() -> float:
    """Seconds from starting `sagellm up` to the first token of an answer; the stack is stopped afterwards."""
    port = free_port()
    with tempfile.TemporaryDirectory() as state:
        start = time.perf_counter()
        process = subprocess.Popen(
            ["sagellm", "up", "--port", str(port)],
            env={**os.environ, "XDG_STATE_HOME": state},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not _ready(port):
                time.sleep(0.02)
            _first_token(port)
            return round(time.perf_counter() - start, 2)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _first_token(port: int) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "model": "sage-tiny", "stream": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        for line in reply:
            if re.search(rb'"content":"[^"]', line):
                return


def run() -> dict[str, Any]:
    """All start times, in seconds."""
    return {
        "version_s": command_seconds("--version"),
        "help_s": command_seconds("--help"),
        "up_to_first_token_s": statistics.median(up_to_first_token() for _ in range(3)),
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
