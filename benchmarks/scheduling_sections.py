"""Texts and tables of what was measured of predictions and of the simulator."""

from typing import Any

from benchmarks.engine_sections import table

NAMES = {"ttft": "TTFT", "itl": "ITL"}


def predictions(result: dict[str, Any]) -> list[str]:
    """How far off predictions are on live stacks."""
    rows: list[list[object]] = [
        [
            name,
            f"{load} of {stack['requests_per_s_at_full_load']:.2f} requests/s",
            level["requests"],
            f"{level['ttft_p50_ms']:,.0f} ms",
            f"{level['ttft_error_p50']:.0%} / {level['ttft_error_p90']:.0%}",
            f"{level['itl_error_p50']:.0%} / {level['itl_error_p90']:.0%}",
        ]
        for name, stack in result.items()
        for load, level in stack["levels"].items()
    ]
    return [
        "## Predictions on live stacks",
        "Requests of conversation lengths at random times, at shares of the highest rate that the stack sustains; the "
        "relative errors of what the scheduler predicted when it placed them.",
        table(["stack", "load", "requests", "TTFT p50", "TTFT error p50 / p90", "ITL error p50 / p90"], rows),
    ]


def validation(result: dict[str, Any]) -> list[str]:
    """Whether the simulator tells the truth."""
    rows: list[list[object]] = [
        [name, *(f"{row[key]['simulated_ms']:,.1f} / {row[key]['live_ms']:,.1f} ({row[key]['ratio']})" for key in row)]
        for name, row in result["stacks"].items()
    ]
    columns = [f"{NAMES[key.split('_')[0]]} {key.split('_')[1]}" for key in next(iter(result["stacks"].values()))]
    return [
        "## The simulator beside live stacks",
        "The same requests at the same times; simulated / live in ms, and the ratio. Mock engines by their time model; "
        "the CPU engine by a time model fitted to the steps that it reported.",
        table(["stack", *columns], rows),
    ]
