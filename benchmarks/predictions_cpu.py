"""How far off predictions are on a live stack of one CPU engine with the 135M shape: `predictions` says how."""

from typing import Any

from benchmarks.predictions import measured, settings


async def run() -> dict[str, Any]:
    """Measure under questions and chats, by load and promise."""
    asked = settings("CPU engine, 135M shape", "cpu", engines=1, streams=12)
    return {setting.title: await measured(setting) for setting in asked}
