"""`serve`, `status`, `logs`, `policy`, `chat`, `bench`, `stop` on one background stack."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)


def test_a_life_in_the_background(terminal: Any, port: int) -> None:
    """serve returns once it is ready; the other commands find it without being told where; stop ends everything."""
    served = terminal.run("serve", "--backend", "mock", "--port", str(port))
    assert served.returncode == 0, served.stdout + served.stderr
    assert f"http://127.0.0.1:{port}/v1" in served.stdout
    _second_serve_is_refused(terminal)
    _status_shows_all(terminal, port)
    _policy_changes(terminal)
    _chat_and_bench(terminal)
    assert "engine_ready" in terminal.run("logs", "engine-1").stdout
    assert "there are" in terminal.run("logs", "nobody").stderr
    stopped = terminal.run("stop")
    assert (stopped.returncode, stopped.stdout.strip()) == (0, "serve has stopped."), stopped.stderr
    assert terminal.wait_for_silence() == []
    assert terminal.run("status").returncode == 1
    assert "No background stack is running." in terminal.run("stop").stdout


def _second_serve_is_refused(terminal: Any) -> None:
    again = terminal.run("serve", "--backend", "mock")
    assert again.returncode == 1
    assert "runs already" in again.stderr


def _status_shows_all(terminal: Any, port: int) -> None:
    shown = terminal.run("status")
    assert shown.returncode == 0
    assert all(name in shown.stdout for name in ("gateway", "scheduler", "registry", "engine-1", str(port)))
    found = json.loads(terminal.run("status", "--json").stdout)
    assert {service["service"] for service in found["services"]} == {"gateway", "scheduler", "registry", "engine"}
    assert found["stacks"][0]["name"] == "serve"


def _policy_changes(terminal: Any) -> None:
    changed = terminal.run("policy", "--queue", "priority", "--router", "random", "--json")
    assert json.loads(changed.stdout)["policy"] == {"queue": "priority", "router": "random", "pd": "adaptive"}
    apart = json.loads(terminal.run("policy", "--pd", "off", "--json").stdout)
    assert (apart["policy"]["pd"], apart["known_pd"]) == ("off", ["adaptive", "off", "threshold"])
    wrong = terminal.run("policy", "--router", "nonsense")
    assert wrong.returncode == 1
    assert "load_balanced" in wrong.stderr


def _chat_and_bench(terminal: Any) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "sagellm"), "chat", "--max-tokens", "5"],
        input="hello\n/reset\nagain\n/quit\n",
        capture_output=True,
        text=True,
        env=terminal.env,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Forgotten." in done.stderr
    benched = terminal.run("bench", "--streams", "4", "--requests", "8", "--max-tokens", "6", "--json")
    report = json.loads(benched.stdout)
    assert (report["completed"], report["failed"], report["completion_tokens"]) == (8, 0, 48)
    missing = terminal.run("chat", "--model", "nobody/nothing")
    assert missing.returncode == 1
    assert "offered are mock-model" in missing.stderr


def test_a_start_that_fails_is_said(terminal: Any, port: int) -> None:
    """A background start that fails shows the service's own words, and nothing runs afterwards."""
    done = terminal.run("serve", "--port", str(port), "--model", "nobody/nothing")
    assert done.returncode == 1
    assert "nobody/nothing" in done.stderr
    assert terminal.wait_for_silence() == []


def test_run_answers_in_one_process(terminal: Any) -> None:
    """`sagellm run` answers without services; the same seed gives the same answer."""
    answers = [terminal.run("run", "What is 17 + 25?", "--seed", "7", "--max-tokens", "12") for _ in range(2)]
    assert answers[0].returncode == 0, answers[0].stderr
    assert answers[0].stdout.strip()
    assert answers[0].stdout == answers[1].stdout
    assert terminal.leftovers() == []
