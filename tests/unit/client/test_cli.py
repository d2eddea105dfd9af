"""The command line's pure parts: version, help, errors, tables, what is imported."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sagellm.cli.app import PANELS, build_app
from sagellm.cli.explanation import decision_sentence, outcome_sentence
from sagellm.cli.load import prompt_of, quantile
from sagellm.cli.models import ago_text, size_text
from sagellm.cli.publishing import check_request
from sagellm.cli.tail import Tail, readable
from sagellm_common.contracts.decisions import Decision, DecisionRecord
from sagellm_common.errors import InvalidArgument
from sagellm_common.version import __version__
from sagellm_registry.store import ModelStore

SAGELLM = Path(sys.executable).parent / "sagellm"
ALL_COMMANDS = [name for names in PANELS.values() for name in names]


def sagellm(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SAGELLM_")}
    return subprocess.run(
        [str(SAGELLM), *arguments], capture_output=True, text=True, timeout=60, env={**kept, "COLUMNS": "100", **env}
    )


def test_the_version_comes_at_once() -> None:
    """`--version` prints name and version, fast enough that a person does not notice."""
    began = time.monotonic()
    result = sagellm("--version")
    assert (result.stdout, result.returncode) == (f"sagellm {__version__}\n", 0)
    assert time.monotonic() - began < 0.9


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import sagellm", {"nats", "httpx", "torch", "pydantic", "typer"}),
        ("from sagellm import NatsClient, HttpClient", {"nats", "httpx", "torch", "typer"}),
        ("from sagellm import AsyncNatsClient", {"httpx", "torch", "transformers"}),
        ("from sagellm.cli.app import build_app; build_app(['--help'])", {"nats", "httpx", "torch", "pydantic"}),
        (
            "import contextlib\nfrom sagellm.cli.main import _run\n"
            "with contextlib.suppress(SystemExit):\n    _run(['-h'])",
            {"nats", "httpx", "torch", "numpy", "asyncio"},
        ),
    ],
)
def test_imports_are_light(code: str, unwanted: set[str]) -> None:
    """Nothing heavy is imported before it is used."""
    check = f"import sys\n{code}\nprint(sorted({unwanted!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines()[-1:] == ["[]"], result.stdout + result.stderr


def test_help_names_every_command() -> None:
    """`sagellm --help` lists all commands in their groups."""
    output = CliRunner().invoke(build_app(["--help"]), ["--help"]).output
    assert all(name in output for name in [*ALL_COMMANDS, *PANELS])


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_every_command_teaches_by_example(name: str) -> None:
    """Each command's help, or that of its parts, has examples."""
    if name == "model":
        parts = [[name, part, "--help"] for part in ("list", "show", "download", "delete")]
    else:
        parts = [[name, "--help"]]
    for arguments in parts:
        result = CliRunner().invoke(build_app(arguments), arguments)
        assert result.exit_code == 0
        assert "Example" in result.output
        assert f"sagellm {arguments[0]}" in result.output


def test_errors_are_one_sentence() -> None:
    """A fault is one sentence on stderr and exit code 1, without a traceback; with SAGELLM_DEBUG=1 one is shown."""
    result = sagellm("publish", "{")
    assert result.returncode == 1
    assert result.stderr.startswith("the request is no JSON")
    assert "Traceback" not in result.stderr
    assert "Traceback" in sagellm("publish", "{", SAGELLM_DEBUG="1").stderr


def test_wrong_usage_ends_with_2() -> None:
    """Unknown commands and options are wrong usage."""
    assert sagellm("nonsense").returncode == 2
    assert sagellm("up", "--engines", "0").returncode == 2


def test_an_absent_bus_is_said_quickly() -> None:
    """A dead NATS port is named, with what to do, within seconds."""
    result = sagellm("policy", "--nats", "nats://user:secret@127.0.0.1:9")
    assert result.returncode == 1
    assert "no NATS server answers at nats://127.0.0.1:9" in result.stderr
    assert "secret" not in result.stderr + result.stdout


def test_an_absent_gateway_is_said_quickly() -> None:
    """A dead HTTP port is named, with what to do."""
    result = sagellm("bench", "--url", "http://127.0.0.1:9")
    assert result.returncode == 1
    assert "start it with `sagellm up`" in result.stderr


def test_models_are_listed_shown_and_kept_until_confirmed(tmp_path: Path) -> None:
    """The built-in model is in the list; it cannot be deleted; an unknown one is said with what to do."""
    env = {"SAGE_LLM_MODEL_ROOT": str(tmp_path), "HOME": str(tmp_path)}
    listed = sagellm("model", "list", **env)
    assert "sage-tiny" in listed.stdout, listed.stderr
    shown = sagellm("model", "show", "sage-tiny", **env)
    assert "LlamaForCausalLM" in shown.stdout, shown.stderr
    refused = sagellm("model", "delete", "sage-tiny", "--yes", **env)
    assert refused.returncode == 1
    assert "cannot be deleted" in refused.stderr
    unknown = sagellm("model", "show", "nobody/nothing", **env)
    assert unknown.returncode == 1
    assert "sagellm model download nobody/nothing" in unknown.stderr


@pytest.mark.acceptance(61)
@pytest.mark.acceptance(58)
def test_deleting_asks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused confirmation leaves the model, with all its columns in the list; `--yes` deletes without asking."""
    folder = tmp_path / "mine"
    shutil.copytree(ModelStore(tmp_path).get_model_path("sage-tiny"), folder)
    monkeypatch.setenv("SAGE_LLM_MODEL_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("COLUMNS", "120")
    store = ModelStore(tmp_path / "root")
    store.add_local(folder, "my/model")
    store.tag_model("my/model", {"use": "test"})

    def model(*arguments: str, said: str = "") -> str:
        return CliRunner().invoke(build_app(["model"]), ["model", *arguments], input=said).output

    assert "Delete my/model" in model("delete", "my/model", said="n\n")
    row = next(line for line in model("list").splitlines() if "my/model" in line)
    assert all(part in row for part in ("main", "MB", "just now", "use=test", "local"))
    assert "has been deleted" in model("delete", "my/model", "--yes")
    assert not store.has_model("my/model")
    assert folder.exists()


@pytest.mark.parametrize("text", ["{", "[1]", "hello", ""])
def test_a_request_that_is_no_object_is_refused(text: str) -> None:
    """The error shows an example that works."""
    with pytest.raises(InvalidArgument, match="Example: sagellm publish"):
        check_request(text)


def test_sizes_and_times_are_readable() -> None:
    """Sizes in decimal units, times as distances."""
    assert [size_text(n) for n in (0, 999, 9_900_000, 2_500_000_000_000)] == ["0 B", "999 B", "9.9 MB", "2.5 TB"]
    assert [ago_text(t, 1_000_000.0) for t in (0, 999_999.0, 999_800.0, 913_000.0)] == [
        "never",
        "just now",
        "3 minutes ago",
        "1 day ago",
    ]


def test_quantiles_and_prompts_of_the_load() -> None:
    """Quantiles are values that occurred; no two prompts are alike and each has its length."""
    assert (quantile([], 0.5), quantile([3.0, 1.0, 2.0], 0.5), quantile([1.0, 2.0], 0.99)) == (0.0, 2.0, 2.0)
    prompts = [prompt_of(i, 8) for i in range(50)]
    assert len(set(prompts)) == 50
    assert all(len(prompt.split()) == 8 for prompt in prompts)


def test_log_lines_are_readable_and_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON lines become time, level, event and details; others stay; only what is new is printed again."""
    line = '{"event": "ready", "level": "info", "timestamp": "2026-01-01T10:11:12.345Z", "port": 1, "service": "x"}'
    assert readable(line) == ("info", "10:11:12.345 info    ready port=1")
    assert readable("[INF] text") == ("", "[INF] text")
    path = tmp_path / "x.log"
    path.write_text("a\nb\nc\nhalf")
    tail = Tail(path, "", 2)
    tail.print_new()
    with path.open("a") as file:
        file.write(" done\n")
    tail.print_new()
    assert capsys.readouterr().out == "b\nc\nhalf done\n"


def test_a_decision_is_a_sentence() -> None:
    """Who chose what, after how long, and why; then what came of it."""
    decision = Decision(
        epoch=1,
        scheduler_id="s",
        leader_epoch=(1, 1),
        time_s=0,
        queue_policy="fifo",
        router="random",
        queue_position=0,
        queued_ms=1.25,
        candidates=[],
        chosen="e2",
        reason="e1 was lost",
        number=1,
    )
    assert decision_sentence(decision) == (
        "Attempt 2: s chose e2 after 1.2 ms in the queue (fifo, position 0): e1 was lost (random)."
    )
    apart = decision.model_copy(update={"prefill": "e7"})
    assert "s chose e7 to prefill and e2 to decode after 1.2 ms" in decision_sentence(apart)
    late = decision.model_copy(update={"gave_way": True, "promised_itl_ms": 20.0})
    assert decision_sentence(late) == (
        "Attempt 2: s chose e2 after 1.2 ms in the queue (fifo, position 0), where it let others go first so that most "
        "were in time: e1 was lost (random). A token every 20 ms is promised."
    )
    record = DecisionRecord(request_id="r", model="m", prompt_tokens=1, max_tokens=2, priority=2)
    assert outcome_sentence(record) == "It is still running."
    done = record.model_copy(update={"outcome": "finished", "completion_tokens": 3, "ttft_ms": 12.3})
    assert outcome_sentence(done) == "Outcome: finished, 3 tokens, the first after 12 ms."
