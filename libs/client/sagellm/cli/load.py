"""A small load on a gateway, and what it measures."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sagellm.cli.console import err, out
from sagellm.client.http_async import AsyncHttpClient
from sagellm_common.errors import NotFound, SageError, Unavailable

WORDS = ("river", "lamp", "garden", "stone", "cloud", "paper", "window", "apple", "bridge", "feather", "clock", "boat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent: `requests` in all, `streams` at a time."""

    streams: int
    requests: int
    prompt_words: int
    max_tokens: int


@dataclass(slots=True)
class Sample:
    """One request: TTFT and the gaps between its chunks, in seconds; tokens as the server counted them."""

    ttft_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    completion_tokens: int = 0
    prompt_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of a whole load. Times in milliseconds; ITL is the gap between two chunks of a stream."""

    url: str
    model: str
    load: Load
    seconds: float
    completed: int
    failed: int
    errors: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of all values do not exceed; 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def prompt_of(number: int, words: int) -> str:
    """Return a prompt that no other number gets, so that no prefix cache helps."""
    chosen = (WORDS[(number * 7 + i * (number % 5 + 1)) % len(WORDS)] for i in range(max(words - 1, 0)))
    return " ".join((str(number), *chosen))


async def run_load(url: str | None, model: str | None, load: Load, *, show_progress: bool) -> Report:
    """Send the load and return the figures; raises Unavailable if nothing answers at all."""
    async with AsyncHttpClient(url) as client:
        name = await _model(client, model)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=err(), transient=True, disable=not show_progress) as progress:
            task = progress.add_task(f"{load.streams} streams on {name}", total=load.requests)
            began = time.perf_counter()
            samples = await _send_all(client, name, load, lambda: progress.advance(task))
            seconds = time.perf_counter() - began
    return _report(client.url, name, load, seconds, samples)


async def _model(client: AsyncHttpClient, wanted: str | None) -> str:
    offered = [model.id for model in await client.models()]
    if wanted is not None and wanted not in offered:
        raise NotFound(f"{wanted} is not served here; offered are {', '.join(offered) or 'none'}")
    if not offered:
        raise Unavailable("no engine serves a model at the moment; see `sagellm status`")
    return wanted or offered[0]


async def _send_all(client: AsyncHttpClient, model: str, load: Load, done: Any) -> list[Sample]:
    numbers = iter(range(load.requests))
    samples: list[Sample] = []

    async def stream_after_stream() -> None:
        for number in numbers:
            samples.append(await _send(client, model, prompt_of(number, load.prompt_words), load.max_tokens))
            done()

    await asyncio.gather(*(stream_after_stream() for _ in range(min(load.streams, load.requests))))
    return samples


async def _send(client: AsyncHttpClient, model: str, prompt: str, max_tokens: int) -> Sample:
    sample = Sample()
    last = began = time.perf_counter()
    try:
        stream = await client.stream(prompt, model=model, max_tokens=max_tokens, ignore_eos=True, temperature=0.0)
        async with stream:
            async for chunk in stream:
                now = time.perf_counter()
                if chunk.usage is not None:
                    sample.prompt_tokens = chunk.usage.prompt_tokens
                    sample.completion_tokens = chunk.usage.completion_tokens
                if not chunk.choices:
                    continue
                if sample.ttft_s is None:
                    sample.ttft_s = now - began
                else:
                    sample.gaps_s.append(now - last)
                last = now
    except SageError as error:
        sample.error = f"{error.code}: {error.message}"
    return sample


def _report(url: str, model: str, load: Load, seconds: float, samples: list[Sample]) -> Report:
    good = [sample for sample in samples if sample.error is None]
    ttfts = [sample.ttft_s * 1000 for sample in good if sample.ttft_s is not None]
    gaps = [gap * 1000 for sample in good for gap in sample.gaps_s]
    tokens = sum(sample.completion_tokens for sample in good)
    return Report(
        url=url,
        model=model,
        load=load,
        seconds=seconds,
        completed=len(good),
        failed=len(samples) - len(good),
        errors=dict(Counter(sample.error for sample in samples if sample.error is not None)),
        prompt_tokens=sum(sample.prompt_tokens for sample in good),
        completion_tokens=tokens,
        tokens_per_s=tokens / seconds,
        ttft_p50_ms=quantile(ttfts, 0.5),
        ttft_p99_ms=quantile(ttfts, 0.99),
        itl_p50_ms=quantile(gaps, 0.5),
        itl_p99_ms=quantile(gaps, 0.99),
    )


def print_report(report: Report) -> None:
    """Print the figures for people."""
    out().print(f"[bold]{report.model}[/bold] at {report.url}, {report.load.streams} streams at a time")
    table = Table(box=None, show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right", style="bold")
    table.add_row("requests completed", f"{report.completed} of {report.load.requests}")
    table.add_row("seconds", f"{report.seconds:.2f}")
    table.add_row("tokens in / out", f"{report.prompt_tokens} / {report.completion_tokens}")
    table.add_row("tokens a second", f"{report.tokens_per_s:.1f}")
    table.add_row("TTFT p50 / p99", f"{report.ttft_p50_ms:.1f} / {report.ttft_p99_ms:.1f} ms")
    table.add_row("ITL p50 / p99", f"{report.itl_p50_ms:.1f} / {report.itl_p99_ms:.1f} ms")
    out().print(table)
    for error, count in report.errors.items():
        err().print(f"{count} times {error}", style="red", markup=False)
