"""What the figures are held to: one goal a row, read from the results, met or missed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure of one benchmark: `path` leads to it, `limit` is what it is held to, in `unit`."""

    name: str
    benchmark: str
    path: str
    unit: str
    limit: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    @property
    def bound(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:,g} {self.unit}"


GOALS = (
    Goal("`sagellm --version`", "start", "version_s", "s", 0.3),
    Goal("`sagellm --help`", "start", "help_s", "s", 0.5),
    Goal("`sagellm up` to the first token", "start", "up_to_first_token_s", "s", 8.0),
    Goal("200 HTTP streams, an event for each token", "streams", "paced.tokens_per_s", "tokens/s", 25_000, True),
    Goal(
        "gateway CPU, an event for each token",
        "streams",
        "paced.cpu_us_per_token.gateway",
        "µs/token",
        35.0,
    ),
    Goal("tokens lost at 200 streams", "streams", "paced.missing_tokens", "tokens", 0),
    Goal(
        "200 HTTP streams, events joined",
        "streams",
        "unbounded.tokens_per_s",
        "tokens/s",
        25_000,
        True,
    ),
    Goal("TTFT added at idle, p50", "idle", "ttft_p50_ms", "ms", 8.0),
    Goal("TTFT added at idle, p99", "idle", "ttft_p99_ms", "ms", 25.0),
    Goal("135M shape, 8 streams, HTTP / in-process", "overhead", "smol135.W2.ratio", "", 0.9, True),
    Goal("135M shape, 32 streams, HTTP / in-process", "overhead", "smol135.W3.ratio", "", 0.9, True),
    Goal("engine free after a client has gone, p99", "disconnect", "freed_p99_ms", "ms", 100.0),
    Goal("one decision with 1,000 engines, p99", "scheduler_core", "1000.p99_us", "µs", 2000.0),
)


def load_results() -> dict[str, Any]:
    """Benchmark → its file's content, for those that have been run."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def judged(results: dict[str, Any]) -> Iterator[tuple[Goal, float]]:
    """Every goal whose figure has been measured, with that figure."""
    for goal in GOALS:
        value: Any = results.get(goal.benchmark, {}).get("result")
        for key in goal.path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            yield goal, float(value)


def table(results: dict[str, Any]) -> str:
    """The goals as a Markdown table."""
    lines = ["| what | measured | goal | |", "|---|---|---|---|"]
    for goal, value in judged(results):
        mark = "met" if goal.is_met(value) else "**missed**"
        lines.append(f"| {goal.name} | {value:,g} {goal.unit} | {goal.bound} | {mark} |")
    return "\n".join(lines)
