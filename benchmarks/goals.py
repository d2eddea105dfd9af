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
    *(
        Goal(
            f"135M shape, {title}, {workload}, HTTP / in-process", "overhead", f"{key}.{workload}.ratio", "", 0.9, True
        )
        for key, title in (("smol135", "bf16"), ("smol135-int8", "INT8"), ("smol135-int4", "INT4"))
        for workload in ("W1", "W2", "W3", "W4")
    ),
    Goal("engine free after a client has gone, p99", "disconnect", "freed_p99_ms", "ms", 100.0),
    Goal("one decision with 1,000 engines, p99", "scheduler_core", "1000.p99_us", "µs", 2000.0),
    Goal("the same with 100,000 open requests, p99", "scheduler_core", "open_100000.p99_us", "µs", 2000.0),
    Goal("the same with SLOs and hand-offs, p99", "scheduler_core", "promises.p99_us", "µs", 2000.0),
    Goal("the same with 1,000 queued, p99", "scheduler_core", "queued.p99_us", "µs", 2000.0),
    *(
        Goal(f"{name}, {title}", f"engine_{shape}", f"ratios.{path}", "× the best peer", limit, True)
        for shape, name in (("smol135", "135M shape"), ("qwen05", "0.5B Qwen2 shape"))
        for title, path, limit in (
            ("lossless, mean of W1 to W4", "lossless.mean", 1.35),
            ("lossless, least of W1 to W3", "lossless.least", 1.25),
            ("lossless, W4", "lossless.W4", 1.05),
            ("INT8, mean of W1 to W4", "int8.mean", 1.7),
            ("INT8, least of W1 to W4", "int8.least", 1.25),
            ("INT4, mean of W1 to W4", "int4.mean", 1.6),
            ("INT4, least of W1 to W4", "int4.least", 1.25),
        )
    ),
    Goal("INT8, KL divergence a token", "quality", "modes.int8.kl", "nats", 0.01),
    Goal("INT8, the same with outlier channels", "quality", "modes.int8.outliers.kl", "nats", 0.01),
    Goal("135M shape, start to first token, warm", "cpu_engine", "start.bf16.warm_s", "s", 4.0),
    Goal("135M shape, start to first token, nothing packed", "cpu_engine", "start.bf16.cold_s", "s", 8.0),
    Goal("memory an engine adds, bf16", "cpu_engine", "start.bf16.loaded_added_share", "× the weights", 0.15),
    Goal("memory an engine adds, INT8", "cpu_engine", "start.int8.loaded_added_share", "× the weights", 0.15),
    Goal("memory an engine adds, INT4", "cpu_engine", "start.int4.loaded_added_share", "× the weights", 0.15),
    Goal("attention of a prompt of 4k", "cpu_engine", "prefill.fp32.attention_share_of_fp32", "× fp32 rate", 0.6, True),
    Goal("prefill up to 16k over a·n + b·n²", "cpu_engine", "prefill.bf16.most_over_fit", "×", 1.15),
    Goal("TTFT with 1,024 tokens known", "cpu_engine", "prefix.ratio", "× the first", 0.1),
    Goal("W3 sampled with penalties", "cpu_engine", "sampling.ratio", "× greedy", 0.95, True),
    Goal(
        "ten minutes of mixed load, speed at the end",
        "long_run",
        "late_over_early_speed",
        "× the beginning",
        0.95,
        True,
    ),
    Goal("the same, growth of memory", "long_run", "memory_growth_mib", "MiB", 8.0),
    *(
        Goal(f"{traffic} at 70 % load, {title}", benchmark, f"{traffic}.levels.70%.{path}", "", limit)
        for benchmark, traffic in (
            ("predictions", "two mock engines, questions, a tight promise"),
            ("predictions", "two mock engines, chats, a tight promise"),
            ("predictions", "two mock engines, questions, a loose promise"),
            ("predictions", "two mock engines, questions, no promise"),
            ("predictions_cpu", "CPU engine, 135M shape, questions, a loose promise"),
            ("predictions_cpu", "CPU engine, 135M shape, questions, a tight promise"),
            ("predictions_cpu", "CPU engine, 135M shape, chats, a tight promise"),
            ("predictions_cpu", "CPU engine, 135M shape, questions, no promise"),
        )
        for title, path, limit in (
            ("error of predicted TTFT, median", "ttft_error_p50", 0.1),
            ("error of predicted TTFT, p90", "ttft_error_p90", 0.3),
            ("error of predicted ITL, median", "itl_error_p50", 0.1),
            ("error of predicted ITL, p90", "itl_error_p90", 0.3),
        )
    ),
    Goal("simulator beside live mock engines, worst error", "validation", "goals.mock", "", 0.15),
    Goal("simulator beside the live CPU engine, medians", "validation", "goals.cpu_median", "", 0.25),
    Goal("a day under the planner, SLO met", "planner", "attainment", "", 0.99, True),
    Goal("the same, engine-hours", "planner", "of_oracle", "× the oracle's", 1.15),
    Goal("12,000 requests through 16 simulated engines", "simulator", "off.seconds", "s", 10.0),
    Goal("the same with adaptive separation", "simulator", "adaptive.seconds", "s", 10.0),
    Goal("load borne, over the best static policy, least", "capacity", "goals.least_of_best", "", 0.99, True),
    Goal("traces with 1.3 times the weak policies' load", "capacity", "goals.traces_over_weak", "traces", 2, True),
    Goal("gap from the best static policy to the bound, closed", "capacity", "goals.gap_closed", "", 0.5, True),
    Goal("at 1.5 times its capacity, of the goodput there", "capacity", "goals.overload", "", 0.85, True),
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
        lines.append(f"| {goal.name} | {_shown(value)} {goal.unit} | {goal.bound} | {mark} |")
    return "\n".join(lines)


def _shown(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1000.0 else f"{value:,.0f}"
