"""What fleets bear within their SLOs, as a table and a picture."""

from pathlib import Path
from typing import Any

from benchmarks.engine_sections import table
from benchmarks.grid import FLEETS, OURS, OVERLOAD, POLICIES, REQUESTS, SPLIT, UNPACED, WEAK, grid
from benchmarks.search import ATTAINMENT

TITLE = "## Load that fleets bear within their SLOs, simulated"


Cells = dict[str, dict[str, dict[str, Any]]]


def by_cell(result: dict[str, Any]) -> Cells:
    """Rows by cell and policy; cells in which a policy lacks are left out."""
    cells: Cells = {}
    for row in result["rows"]:
        cells.setdefault(row["cell"], {})[row["policy"]] = row
    return {cell: rows for cell, rows in cells.items() if rows.keys() == POLICIES.keys()}


def figures(result: dict[str, Any]) -> dict[str, Any]:
    """What the goals are held to.

    `least_of_best`: ours over the best static choice, least of all cells. `traces_over_weak`: traces on which ours
    bears at least 1.3 times what each weak policy does, in the mean of their cells. `over_unpaced`: by trace, ours over
    the best of those whose engines keep no pace. `gap_closed`: of the gap between the best static choice and the bound,
    mean; `gap_closed_of_means`: of that to the bound for the mean request; `gap_closed_unpaced`: of that above the best
    whose engines keep no pace. `overload`: goodput at 1.5 times our capacity over goodput there, least. Nothing without
    a whole cell.
    """
    cells = by_cell(result)
    if not cells:
        return {}
    ratios, over = [], []
    gaps: dict[str, list[float]] = {"": [], "_of_means": [], "_unpaced": []}
    weak: dict[str, list[float]] = {}
    unpaced: dict[str, list[float]] = {}
    for rows in cells.values():
        ours = rows[OURS]
        best = max(row["goodput"] for name, row in rows.items() if name != OURS)
        ratios.append(ours["goodput"] / best)
        gaps[""].append(_gap_closed(ours, best, "bound"))
        gaps["_of_means"].append(_gap_closed(ours, best, "bound_of_means"))
        gaps["_unpaced"].append(_gap_closed(ours, max(rows[name]["goodput"] for name in UNPACED), "bound"))
        over.append(ours["overload"]["goodput"] / ours["goodput"])
        for found, names in ((weak, WEAK), (unpaced, UNPACED)):
            over_best = ours["goodput"] / max(rows[name]["goodput"] for name in names)
            found.setdefault(ours["trace"], []).append(over_best)
    means = _means(weak)
    return {
        "least_of_best": min(ratios),
        "mean_of_best": sum(ratios) / len(ratios),
        "traces_over_weak": sum(mean >= 1.3 for mean in means.values()),
        "over_weak": means,
        "over_unpaced": _means(unpaced),
        **{f"gap_closed{name}": sum(closed) / len(closed) for name, closed in gaps.items()},
        "overload": min(over),
    }


def _gap_closed(ours: dict[str, Any], base: float, bound: str) -> float:
    return float((ours["goodput"] - base) / max(1e-9, ours[bound] - base))


def _means(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: sum(found) / len(found) for name, found in values.items()}


def section(result: dict[str, Any]) -> list[str]:
    """Tables and text."""
    cells, found = by_cell(result), figures(result)
    if not cells:
        return [TITLE, "No cell has been measured with all policies yet."]
    policies = list(POLICIES)
    loads: list[list[object]] = []
    times: list[list[object]] = []
    for cell, rows in cells.items():
        best = max(row["goodput"] for row in rows.values())
        loads.append(
            [cell, f"{next(iter(rows.values()))['bound']:.1f}", *(_load(rows[name], best) for name in policies)]
        )
        times += [_times(cell, rows[name]) for name in policies]
    return [
        TITLE,
        _conditions(policies, cells),
        "![load borne by policy](images/capacity.svg)",
        table(["trace, fleet, SLOs", "bound", *policies], loads),
        _findings(cells, found),
        "<details><summary>times at that load, and at 1.5 times it with admission</summary>\n",
        table(
            ["cell", "policy", "TTFT p50 / p99, ms", "ITL p50 / p99, ms", "use", "in time at 1.5 times, of capacity"],
            times,
        ),
        "\n</details>",
    ]


def _conditions(policies: list[str], cells: Cells) -> str:
    text = f"""The first {REQUESTS["conversation"]:,} requests of Azure's conversation trace and {REQUESTS["code"]:,} of
    its code trace and of Mooncake's synthetic one, their arrivals squeezed until fewer than {ATTAINMENT:.0%} meet both
    SLOs (time to the first token / mean time from token to token). Fleets: {", ".join(FLEETS)} (H200 and H100 with an
    8B model, by the limits of the hardware, not measured); with roles: {", ".join(SPLIT.values())}. Requests a second
    that were in time, at the highest such load: three loads that lie 2 % apart are judged by their mean, and figures
    are means of the three. The bound is what the engines' time models allow without queueing and with a perfect cache,
    which holds as much as all engines together and always keeps what is needed again soonest: for the mean request, or,
    where that is less, for the first tokens of the bursts as they come, if all engines computed each prompt together
    and it were known beforehand which 5 % to give up. {_pace(policies)} The grid is written down in
    `benchmarks/grid.py`; `python -m benchmarks.capacity --traces FOLDER` runs it,
    in virtual time, so that the machine makes no difference. {_lacking(cells)}"""
    return " ".join(text.split())


def _findings(cells: Cells, found: dict[str, Any]) -> str:
    weak, unpaced = (
        ", ".join(f"{trace} {ratio:.2f}" for trace, ratio in found[name].items())
        for name in ("over_weak", "over_unpaced")
    )
    text = f"""Ours over the best static choice: {found["least_of_best"]:.2f} at least, {found["mean_of_best"]:.2f} in
    the mean; over the best of {", ".join(WEAK)}: {weak}; over the best without a pace: {unpaced}. Of the gap between
    the best static choice and the bound it closes {found["gap_closed"]:.0%} in the mean ({_gaps(cells)}), of that above
    the best without a pace {found["gap_closed_unpaced"]:.0%}; of that to the bound for the mean request alone, as if
    prompts came evenly, {found["gap_closed_of_means"]:.0%}: on the code trace no scheduler could come near that one,
    since its bursts hold more prompts than all engines compute within the SLO. At {OVERLOAD:g} times its capacity,
    refusing whom it expects to be late, it serves {found["overload"]:.2f} of it in time at least.
    {_by_recency(cells)}"""
    return " ".join(text.split())


def _gaps(cells: Cells) -> str:
    """By trace, in the mean of its cells."""
    gaps: dict[str, list[float]] = {}
    for rows in cells.values():
        best = max(row["goodput"] for name, row in rows.items() if name != OURS)
        gaps.setdefault(rows[OURS]["trace"], []).append(_gap_closed(rows[OURS], best, "bound"))
    return ", ".join(f"{trace} {share:.0%}" for trace, share in _means(gaps).items())


def _by_recency(cells: Cells) -> str:
    """How much of the bound is owed to caches that know the future."""
    ours = [rows[OURS] for rows in cells.values()]
    shares = {
        row["cell"]: (row["goodput"] / row["bound_by_recency"], row["goodput"] / row["bound"])
        for row in ours
        if row.get("bound_by_recency", row["bound"]) < row["bound"]
    }
    if not shares:
        return ""
    known = "; ".join(f"{cell}: {share:.0%} instead of {of_bound:.0%}" for cell, (share, of_bound) in shares.items())
    return (
        "Where prompts come again, the bound is owed to caches that know what will come. Of what is possible with one "
        "that holds as much but gives up what was used the longest ago, as engines do, and whose pages all engines "
        f"share, ours bears: {known}."
    )


def _lacking(cells: Cells) -> str:
    names = [cell.name for cell in grid() if cell.name not in cells]
    rows = [row for found in cells.values() for row in found.values()]
    single = sum("neighbours" not in row for row in rows)
    return " ".join(
        [
            f"Not measured yet: {'; '.join(names)}." if names else "",
            f"{single} of the {len(rows)} rows are from before, when single loads were judged." if single else "",
        ]
    )


def _pace(policies: list[str]) -> str:
    if not any("no pace" in name for name in policies):
        return ""
    return (
        "All engines keep to the time from token to token that is promised, but for the columns without a pace, where "
        "they compute as much of a prompt as fits into a step. "
    )


def _load(row: dict[str, Any], best: float) -> str:
    text = f"{row['goodput']:.1f}"
    return f"**{text}**" if row["goodput"] == best else text


def _times(cell: str, row: dict[str, Any]) -> list[object]:
    at = row["at_capacity"]
    return [
        cell,
        row["policy"],
        f"{1e3 * at['ttft_p50']:,.0f} / {1e3 * at['ttft_p99']:,.0f}",
        f"{1e3 * at['itl_p50']:.1f} / {1e3 * at['itl_p99']:.1f}",
        f"{at['utilisation']:.0%}",
        f"{row['overload']['goodput'] / row['goodput']:.2f}",
    ]


def draw(result: dict[str, Any], folder: Path) -> None:
    """Bars of each policy's load over the bound, by cell."""
    from matplotlib.figure import Figure

    cells, policies = by_cell(result), list(POLICIES)
    figure = Figure(figsize=(11, 1.0 + 0.75 * len(cells)), layout="constrained")
    axis = figure.subplots()
    height = 0.8 / len(policies)
    for number, name in enumerate(policies):
        shares = [rows[name]["goodput"] / rows[name]["bound"] for rows in cells.values()]
        places = [place + number * height for place in range(len(cells))]
        colour = "tab:green" if name == OURS else f"{0.8 - 0.1 * number:.1f}"
        axis.barh(places, shares, height, label=name, color=colour)
    axis.set_yticks([place + 0.4 - height / 2 for place in range(len(cells))], list(cells))
    axis.invert_yaxis()
    axis.set(xlabel="requests in time, of the bound")
    axis.set_xlim(left=0)
    axis.legend(loc="lower right")
    figure.savefig(folder / "capacity.svg", metadata={"Date": None})
