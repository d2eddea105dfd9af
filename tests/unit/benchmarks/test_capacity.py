"""The rows of the capacity grid: they are measured one by one, over days."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import capacity
from benchmarks.capacity_report import by_cell, figures, section
from benchmarks.grid import OURS, POLICIES, grid

CELLS = [cell.name for cell in grid()]


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing has been measured yet."""
    monkeypatch.setattr(capacity, "KEPT", tmp_path / "capacity.json")
    return tmp_path / "capacity.json"


def row(cell: str, policy: str, goodput: float = 10.0, date: str = "2026-01-01 10:00") -> dict[str, Any]:
    """A measured row."""
    over = {"goodput": goodput * 0.9}
    found = {"cell": cell, "trace": cell.split(",")[0], "policy": policy, "bound": 20.0, "goodput": goodput}
    found |= {"bound_of_means": 25.0}
    return {**found, "capacity": goodput + 0.5, "overload": over, "date": date}


def rows(kept: Path) -> list[dict[str, Any]]:
    """What is in the file."""
    found: list[dict[str, Any]] = json.loads(kept.read_text())["result"]["rows"]
    return found


def test_a_row_takes_the_place_of_the_one_before(kept: Path) -> None:
    """Others stay; all are in the order of the grid, whichever was measured first."""
    capacity.keep(row(CELLS[1], OURS))
    capacity.keep(row(CELLS[0], "random"))
    capacity.keep(row(CELLS[1], OURS, goodput=12.0))
    assert [(each["cell"], each["policy"], each["goodput"]) for each in rows(kept)] == [
        (CELLS[0], "random", 10.0),
        (CELLS[1], OURS, 12.0),
    ]


def test_what_has_never_been_measured_comes_first_then_the_oldest() -> None:
    """So that the grid can be gone on with, and is as young as can be."""
    capacity.keep(row(CELLS[0], "random", date="2026-01-02 10:00"))
    capacity.keep(row(CELLS[0], OURS, date="2026-01-01 10:00"))
    tasks = capacity.oldest_first(Path("traces"), CELLS[0], ["random", "cache-aware", OURS])
    assert [(policy, near) for _, _, policy, near in tasks] == [("cache-aware", None), (OURS, 10.5), ("random", 10.5)]


def test_nothing_is_begun_when_the_time_is_up() -> None:
    """`--minutes 0` measures nothing."""
    tasks = capacity.oldest_first(Path("traces"), CELLS[0], [OURS])
    assert list(capacity.measured(tasks, 2, until=0.0)) == []


def test_goals_are_about_whole_cells(kept: Path) -> None:
    """A cell in which a policy lacks says nothing."""
    capacity.keep(row(CELLS[1], OURS, goodput=1.0))
    assert json.loads(kept.read_text())["result"]["goals"] == {}
    for policy in POLICIES:
        capacity.keep(row(CELLS[0], policy, goodput=15.0 if policy == OURS else 10.0))
    result = json.loads(kept.read_text())["result"]
    assert list(by_cell(result)) == [CELLS[0]]
    assert result["goals"] == figures(result)
    assert result["goals"]["least_of_best"] == pytest.approx(1.5)
    assert result["goals"]["gap_closed"] == pytest.approx(0.5)
    assert result["goals"]["gap_closed_of_means"] == pytest.approx(1 / 3)


def test_what_a_cache_without_foresight_leaves_is_said_where_prompts_come_again(kept: Path) -> None:
    """A cell whose bound is owed to knowing the future names ours as a share of both bounds; others say nothing."""
    for policy in POLICIES:
        capacity.keep(row(CELLS[0], policy) | {"bound_by_recency": 20.0})
        capacity.keep(row(CELLS[-1], policy) | {"bound_by_recency": 12.5})
    at_capacity = dict.fromkeys(("ttft_p50", "ttft_p99", "itl_p50", "itl_p99", "utilisation"), 0.5)
    result = json.loads(kept.read_text())["result"]
    for each in result["rows"]:
        each["at_capacity"] = at_capacity
    assert f"ours bears: {CELLS[-1]}: 80% instead of 50%." in "\n".join(section(result))
