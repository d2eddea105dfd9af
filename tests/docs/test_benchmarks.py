"""The published figures are those that were measured."""

from benchmarks.goals import Goal, load_results, table
from tools.make_benchmarks import README, TARGET, figures, render


def test_the_documents_show_the_committed_results() -> None:
    """docs/benchmarks.md and the README's figures are what the committed results give."""
    results = load_results()
    assert TARGET.read_text() == render(results), "run `python -m tools.make_benchmarks` and commit the result"
    assert figures(results) in README.read_text(), "run `python -m tools.make_benchmarks` and commit the result"


def test_a_missed_goal_is_said() -> None:
    """A figure beyond its goal is marked as missed, one within as met."""
    assert Goal("x", "b", "p", "ms", 5.0).is_met(5.0)
    assert not Goal("x", "b", "p", "ms", 5.0, at_least=True).is_met(4.9)
    rows = table({"start": {"result": {"version_s": 0.4, "help_s": 0.4}}}).splitlines()
    assert "**missed**" in rows[2]
    assert rows[3].endswith("| met |")
