"""`sagellm plan` and `--scale`: what is said, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from sagellm.cli.options import engines_of
from sagellm.cli.planning import Found, figures, plan_sentence, print_plans
from sagellm_common.contracts.plan import EngineGroup, FleetPlan, MeanTokens
from sagellm_common.errors import InvalidArgument

SAGELLM = Path(sys.executable).parent / "sagellm"


def plan(**fields: object) -> FleetPlan:
    """A plan for three engines, of which two are ready, made at 1000 s."""
    known = {
        "model": "sage-tiny",
        "time_s": 1000.0,
        "groups": [
            EngineGroup(kind="cpu/bf16", role="prefill", count=1),
            EngineGroup(kind="cpu/bf16", role="decode", count=2),
        ],
        "engines_now": 2,
        "ready": {"prefill": 1, "decode": 1},
        "requests_per_s": 4.25,
        "expected_per_s": 5.126,
        "burst": 1.3,
        "margin": 0.95,
        "request": MeanTokens(new=812.4, output=95.6, context=900.0, products=3.3e5, long_prompt=1500.0),
        "attainment": 0.985,
        "price_per_hour": 7.5,
        "reason": "apart, an engine prefills 9 and decodes 4 requests/s",
    }
    return FleetPlan(**{**known, **fields})  # type: ignore[arg-type]  # pydantic checks them


@pytest.mark.parametrize(
    ("scale", "expected"), [(None, (2, None)), ("2..4", (2, 4)), ("2..2", (2, 2)), ("2..64", (2, 64))]
)
def test_a_scale_is_the_least_and_the_most(scale: str | None, expected: tuple[int, int | None]) -> None:
    """`--scale 2..4` starts two and goes up to four; without it `--engines` holds."""
    assert engines_of(2, scale) == expected


@pytest.mark.parametrize(
    "scale", ["", "4", "4..2", "0..2", "1..65", "1...3", "a..b", "1..", "..3", "-1..2", "1.5..2", "²..3"]
)
def test_a_wrong_scale_is_one_sentence(scale: str) -> None:
    """Whatever is no range is refused with an example that works."""
    with pytest.raises(InvalidArgument, match=r"give the least and the most engines, from 1 to 64, such as 1\.\.4"):
        engines_of(1, scale)


@pytest.mark.parametrize("command", ["up", "serve"])
def test_up_and_serve_refuse_a_wrong_scale(command: str) -> None:
    """The sentence reaches the person, exit code 1, before anything starts."""
    done = subprocess.run([str(SAGELLM), command, "--scale", "4..1"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("--scale is '4..1': give the least")
    assert len(done.stderr.splitlines()) == 1


def test_a_scale_and_another_number_of_engines_contradict() -> None:
    """`-n 3 --scale 1..4` says two things."""
    with pytest.raises(InvalidArgument, match="leave out --engines"):
        engines_of(3, "1..4")


@pytest.mark.parametrize(
    ("count", "seconds", "text"),
    [
        (1, 4, "sage-tiny: 1 engine is wanted, 1 ready (planned 4 s ago)"),
        (3, 180, "sage-tiny: 3 engines are wanted, 1 ready (planned 3 min ago)"),
        (0, 10_800, "sage-tiny: 0 engines are wanted, 1 ready (planned 3 h ago)"),
        (1, -2, "sage-tiny: 1 engine is wanted, 1 ready (planned 0 s ago)"),
    ],
)
def test_a_plan_is_a_sentence(count: int, seconds: float, text: str) -> None:
    """Wanted, ready, and how old the plan is; clocks may differ."""
    groups = [EngineGroup(kind="k", count=count)]
    assert plan_sentence(plan(groups=groups, engines_now=1), 1000.0 + seconds) == text


def test_what_a_plan_follows_from_is_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines by role, rates, burst, margin, SLOs, cost and reason; a warning if nobody keeps the plan current."""
    monkeypatch.setenv("COLUMNS", "100")
    print_plans(Found([plan(), plan(model="other", attainment=None, request=None)], is_current=False))
    captured = capsys.readouterr()
    for line in ("prefill  cpu/bf16          1       1", "decode   cpu/bf16          2       1"):
        assert line in captured.out
    for text in (
        "4.25 requests/s in the last ten minutes, 5.13 expected",
        "812 tokens to prefill and 96 of an answer",
        "98.5% in the last five minutes",
        "7.5 an hour",
    ):
        assert text in captured.out
    assert "too few requests to say" in captured.out
    assert "none seen yet" in captured.out
    assert "No planner answers: these plans stay as they are." in captured.err
    assert [label for label, _ in figures(plan())] == ["rate", "request", "burst", "margin", "SLOs met", "cost", "why"]
