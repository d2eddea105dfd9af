"""`sagellm simulate`: what it prints, and what it says about what it cannot do."""

import json
import sys
from pathlib import Path
from unittest import mock

import pytest

from sagellm.cli.main import main
from sagellm.cli.simulation import Asked, picture
from sagellm.cli.simulation import run as simulated

SMALL = ["simulate", "--first", "60", "--rate", "20", "--engines", "1*h200-8b"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command; returns its exit code, and what it wrote."""
    with mock.patch.object(sys, "argv", ["sagellm", *arguments]), pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_policies_are_compared_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Each policy has a row with its figures and a bar with its share of requests within the SLO."""
    code, out, _ = run(capsys, *SMALL, "--policy", "predictive/fair", "--policy", "random")
    assert code == 0
    assert "60 requests of made-up chats, 20.00 a second" in out
    assert out.count("predictive/fair") == 2
    assert out.count("random") == 2


def test_eighty_columns_cut_no_figure_off(capsys: pytest.CaptureFixture[str]) -> None:
    """A long name is folded, its figures and headings stay whole, and the bars begin in one column."""
    code, out, _ = run(capsys, *SMALL, "--policy", "predictive/slo_aware/adaptive", "--policy", "random")
    assert code == 0
    assert "…" not in out
    assert "TTFT p50" in out
    long, short = (line for line in out.splitlines() if "█" in line)
    assert long.index("█") == short.index("█")


def test_json_repeats_with_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """The same seed gives the same figures, another one others."""
    one, two, three = (run(capsys, *SMALL, "--json", "--seed", seed)[1] for seed in ("1", "1", "2"))
    assert json.loads(one) == json.loads(two)
    assert json.loads(one)["policies"] != json.loads(three)["policies"]
    assert json.loads(one)["policies"]["load_balanced"]["finished"] == 60


def test_a_trace_and_an_engine_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An engine is described in a JSON file, a trace read from a CSV; a picture is written."""
    fields = {"base": 0.01, "prefill": 1e-4, "decode": 1e-4, "context": 0, "chunk_x_context": 0, "num_pages": 1000}
    (tmp_path / "mine.json").write_text(json.dumps(fields))
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n0,100,10\n1,200,20\n")
    code, out, _ = run(
        capsys,
        *("simulate", "--trace", str(tmp_path / "trace.csv"), "--engines", f"2*{tmp_path / 'mine.json'}", "--json"),
        *("--policy", "predictive", "--plot", str(tmp_path / "picture.png")),
    )
    assert code == 0
    figures = json.loads(out)["policies"]["predictive"]
    assert figures["finished"] == 2
    assert figures["itl_p50"] == pytest.approx(0.0101, abs=2e-4)
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_the_picture_shows_all_that_policies_differ_in() -> None:
    """Both times as curves with the SLO; attainment, goodput, use and cost as a bar for each policy."""
    asked = Asked(
        trace=None,
        engines="1*h200-8b",
        policies=("random", "predictive"),
        rate=20.0,
        first=40,
        ttft_ms=300.0,
        itl_ms=30.0,
        admission=False,
        seed=1,
    )
    runs = simulated(asked, quiet=True)
    times, bars = (lambda axes: (axes[:2], axes[2:]))(picture(runs).axes)
    for axis, limit in zip(times, (300.0, 30.0), strict=True):
        assert [line.get_label() for line in axis.lines] == ["random", "predictive", "SLO"]
        assert list(axis.lines[-1].get_xdata()) == [limit, limit]
    shown = [[bar.get_width() for bar in axis.patches] for axis in bars]
    summaries = [item.summary for item in runs]
    assert shown == [
        [100.0 * each.attainment for each in summaries],
        [each.goodput for each in summaries],
        [100.0 * each.utilisation for each in summaries],
        [each.cost for each in summaries],
    ]
    assert [text.get_text() for text in bars[0].get_yticklabels()] == ["random", "predictive"]


def test_engines_with_roles_hand_over(capsys: pytest.CaptureFixture[str]) -> None:
    """Half prefills, half decodes: between tokens it takes as long as decoding alone, which is less than doing both."""
    arguments = (
        "simulate",
        "--first",
        "150",
        "--rate",
        "40",
        "--engines",
        "1*h200-8b:prefill,1*h200-8b:decode",
        "--json",
    )
    code, out, _ = run(
        capsys, *arguments, "--policy", "load_balanced/fifo/threshold", "--policy", "load_balanced/fifo/off"
    )
    assert code == 0
    found = json.loads(out)["policies"]
    assert found["load_balanced/fifo/threshold"]["itl_p95"] < 0.8 * found["load_balanced/fifo/off"]["itl_p95"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engines", "3*abacus"], "no kind of engine 'abacus'; known are h200-8b"),
        (["--engines", "none*h200-8b"], "does not begin with a count"),
        (["--trace", "nowhere.csv"], "no trace nowhere.csv"),
        (["--policy", "quickest"], "no router 'quickest'; known are"),
        (["--policy", "random/loudest"], "no queue policy 'loudest'; known are"),
        (["--policy", "random/fifo/seldom"], "no pd policy 'seldom'; known are"),
        (["--engines", "2*h200-8b:cook"], "no role 'cook' of engines; known are hybrid, prefill, decode"),
    ],
)
def test_what_is_unknown_is_said_in_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """With the known names, and without a traceback."""
    code, _, err = run(capsys, "simulate", "--first", "5", *arguments)
    assert code == 1
    assert message in " ".join(err.split())
    assert "Traceback" not in err
