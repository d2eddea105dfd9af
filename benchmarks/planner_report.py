"""The day under the planner, as text and a picture."""

from pathlib import Path
from typing import Any

from benchmarks.planner import CODE, CONVERSATION, DAYS_BEFORE, GOAL, SLO, START_S, STREAMS, WINDOW_S

PER_HOUR = 3600.0 / WINDOW_S


def section(result: dict[str, Any]) -> list[str]:
    """What was simulated, and what came of it."""
    return [
        "## A day under the planner, simulated",
        f"{result['requests']:,} requests in 24 hours: {STREAMS} streams of Azure's conversations, "
        f"{CONVERSATION.mean:g} a second each in the mean, most at {CONVERSATION.peak:g}:00, and {STREAMS} of its code "
        f"trace, {CODE.mean:g} a second, most at {CODE.peak:g}:00, by seeded curves with chance from hour to hour. "
        f"SLO: first token within {SLO.ttft_ms:,.0f} ms, then {SLO.itl_ms:g} ms a token. Engines are L4s with an 8B "
        f"model (by the limits of the hardware, not measured), and take {START_S:g} s to start; who is not needed for "
        "as long is given up. The planner knows "
        f"the hourly rates of the {DAYS_BEFORE} days before. {result['attainment']:.2%} of the requests meet the SLO "
        f"with {result['engine_hours']:.1f} engine-hours, start-up included, and {result['dropped']} are dropped. The "
        f"oracle takes {result['oracle_engine_hours']:.1f}: knowing what comes, in each quarter of an hour it has the "
        f"fewest engines, with no time to start them, with which {GOAL:.0%} of that quarter's requests meet the SLO. "
        f"The planner has {result['of_oracle']:.2f} times that. "
        "`python -m benchmarks.planner --traces FOLDER` runs it.",
        "![engines over the day](images/planner.svg)",
    ]


def draw(result: dict[str, Any], folder: Path) -> None:
    """Engines by planner and oracle, the rate, and SLOs met, over the day."""
    from matplotlib.figure import Figure

    quarters, oracle = result["by_quarter"], result["oracle_engines"]
    hours = [number / PER_HOUR for number in range(len(quarters))]
    figure = Figure(figsize=(11, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    upper.step(hours, oracle, where="post", color="0.6", label="engines of the oracle")
    upper.step(hours, [row["engines"] for row in quarters], where="post", color="tab:green", label="engines, planner")
    upper.plot(hours, [row["rate"] for row in quarters], color="tab:blue", linestyle=":", label="requests a second")
    upper.set(ylim=(0, None))
    upper.legend(loc="upper left")
    lower.step(hours, [row["attainment"] for row in quarters], where="post", color="tab:green")
    lower.axhline(GOAL, color="grey", linestyle=":")
    lowest = min(0.9, *(row["attainment"] for row in quarters))
    lower.set(xlabel="hour of the day", ylabel="SLO met", ylim=(lowest, 1.0), xlim=(0, 24), xticks=range(0, 25, 3))
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
    figure.savefig(folder / "planner.svg", metadata={"Date": None})
