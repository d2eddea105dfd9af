"""`sagellm up` with real processes: it starts, answers, restarts what dies, and leaves nothing behind."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytestmark = pytest.mark.timeout(240)
UP = "Ctrl-C stops everything"
MOCK = ("up", "--backend", "mock")


def ask(port: int, text: str = "hi") -> httpx.Response:
    body = {"model": "mock-model", "prompt": text, "max_tokens": 4}
    return httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=30)


def test_up_demo_answers_and_ctrl_c_leaves_nothing(terminal: Any, port: int) -> None:
    """The built-in model streams an answer, what is printed to try works when pasted, Ctrl-C ends every process."""
    up = terminal.start("up", "--demo", "--port", str(port))
    up.wait_for(UP)
    assert re.search(r"\d+ tokens, first after \d+ ms", up.text), up.text
    assert f"http://127.0.0.1:{port}/v1" in up.text
    for command in _printed_commands(up.text):
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, env=terminal.env, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout.strip(), command
    _explain_last(terminal, up.text)
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(40) == 0, up.text
    assert terminal.wait_for_silence() == []
    assert not list(terminal.state.glob("run/*/stack.json"))


def _printed_commands(text: str) -> list[str]:
    """The three commands that are printed after their numbered titles."""
    found = re.findall(r"^\d\. [^\n]+\n(.*?)(?=^\d\. |^Ctrl-C|\n\n)", text, re.S | re.M)
    assert len(found) == 3, text
    return found


def _explain_last(terminal: Any, text: str) -> None:
    """`publish` names the request, and `explain` explains it."""
    done = terminal.run("publish", '{"prompt": "Once", "sampling": {"max_tokens": 3}}')
    found = re.search(r"sagellm explain (\S+)", done.stderr)
    assert found is not None, done.stderr
    explained = terminal.run("explain", found.group(1), "--json")
    record = json.loads(explained.stdout)
    assert record["decisions"][0]["chosen"] == "engine-1"
    assert "chose engine-1" in terminal.run("explain", found.group(1)).stdout


def test_kill_9_leaves_nothing(terminal: Any, port: int) -> None:
    """When the launcher is killed without a chance to clean up, the guard ends every child."""
    up = terminal.start(*MOCK, "--port", str(port))
    up.wait_for(UP)
    assert len(terminal.leftovers()) >= 6
    up.process.kill()
    up.process.wait()
    assert terminal.wait_for_silence() == []


def test_a_child_that_ignores_sigterm_is_ended(terminal: Any, port: int) -> None:
    """A hung service does not hold up the end: it gets SIGKILL after its grace."""
    up = terminal.start(*MOCK, "--port", str(port))
    up.wait_for(UP)
    hung = _service(terminal, "sagellm_registry")
    hung.suspend()
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(40) == 0, up.text
    assert terminal.wait_for_silence() == []


def test_an_engine_that_dies_is_restarted(terminal: Any, port: int) -> None:
    """A killed engine is said and started again; requests are answered again without anybody's help."""
    up = terminal.start(*MOCK, "--port", str(port))
    up.wait_for(UP)
    assert ask(port).status_code == 200
    first = _service(terminal, "sagellm_engine")
    first.kill()
    up.wait_for(r"engine-1 +died +was ended by SIGKILL; starts again in 0.5 s")
    up.wait_for(r"engine-1 +restarting")
    deadline = time.monotonic() + 60
    while ask(port).status_code != 200:
        assert time.monotonic() < deadline, up.text
    assert _service(terminal, "sagellm_engine").pid != first.pid


def _service(terminal: Any, module: str) -> psutil.Process:
    return next(process for process in terminal.leftovers() if module in process.cmdline())


def test_a_busy_port_is_said_if_it_was_asked_for(terminal: Any) -> None:
    """`--port` names a port that is taken: one sentence, exit code 1, nothing started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = terminal.run(*MOCK, "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} is in use" in done.stderr
    assert terminal.wait_for_silence() == []


def test_an_absent_bus_is_said(terminal: Any) -> None:
    """SAGELLM_NATS_URL names a dead port: one sentence with what to do, exit code 1, nothing started."""
    terminal.env["SAGELLM_NATS_URL"] = "nats://127.0.0.1:9"
    done = terminal.run(*MOCK)
    assert done.returncode == 1
    assert "no NATS server answers at nats://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
    assert terminal.wait_for_silence() == []


def test_a_child_that_dies_at_start_shows_its_last_words(terminal: Any, port: int) -> None:
    """A model that does not exist: the engine's own sentence is shown, and everything that had started ends."""
    done = terminal.run("up", "--port", str(port), "--model", "nobody/nothing")
    assert done.returncode == 1
    assert "engine-1 ended with exit code 1" in done.stderr
    assert "nobody/nothing" in done.stderr
    assert terminal.wait_for_silence() == []


def test_a_given_bus_is_used_and_left_running(terminal: Any, port: int, own_nats_server: Any) -> None:
    """With SAGELLM_NATS_URL the stack joins that bus, and the server runs on afterwards."""
    terminal.env["SAGELLM_NATS_URL"] = own_nats_server.url
    up = terminal.start(*MOCK, "--port", str(port))
    up.wait_for(UP)
    assert ask(port).status_code == 200
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(40) == 0
    os.kill(own_nats_server.pid, 0)
    assert terminal.wait_for_silence() == []


def test_the_progress_is_a_live_table_in_a_terminal(terminal: Any, port: int) -> None:
    """In a pseudo-terminal each service is shown with its state, and Ctrl-C typed there ends everything."""
    command = [str(Path(sys.executable).parent / "sagellm"), *MOCK, "--port", str(port)]
    parent, child = pty.openpty()
    process = subprocess.Popen(
        command,
        stdin=child,
        stdout=child,
        stderr=child,
        env={**terminal.env, "TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(child)
    try:
        text = _read_until(parent, UP)
        assert all(f"{name} " in text for name in ("nats", "engine-1", "gateway", "scheduler", "registry"))
        assert "✓" in text
        process.send_signal(signal.SIGINT)
        _read_until(parent, "Everything has stopped.")
        assert process.wait(20) == 0
    finally:
        os.close(parent)
        if process.poll() is None:
            process.kill()
        process.wait()


def _read_until(descriptor: int, wanted: str, timeout_s: float = 100.0) -> str:
    text, deadline = "", time.monotonic() + timeout_s
    while wanted not in text:
        assert time.monotonic() < deadline, text
        if select.select([descriptor], [], [], 0.2)[0]:
            text += os.read(descriptor, 65536).decode(errors="replace")
    return text
