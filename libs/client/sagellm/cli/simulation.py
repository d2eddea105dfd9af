"""Runs of the simulator for people: progress, a table, bars, a picture."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sagellm.cli.console import err, out
from sagellm.cli.hints import own_python
from sagellm_common.contracts.slo import Slo
from sagellm_common.errors import InvalidArgument, Unavailable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

with contextlib.suppress(ModuleNotFoundError):  # said in a sentence when it is used
    from sagellm_simulation.report import Summary, summarise
    from sagellm_simulation.specs import EngineSpec, parse_engines
    from sagellm_simulation.trace import Trace, conversations, load
    from sagellm_simulation.world import Result, Scenario, World

BARS = {
    "attainment": ("within the SLO, %", 100.0),
    "goodput": ("in time, requests/s", 1.0),
    "utilisation": ("use of the engines, %", 100.0),
    "cost": ("cost of the engines", 1.0),
}
"""What the picture has of each run's summary: its title, and by what it is multiplied."""

BAR = 40
COLUMNS = ("TTFT p50", "p95", "p99", "ITL p50", "p99", "good/s", "use", "cost", "refused")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the user wants simulated."""

    trace: Path | None
    engines: str
    policies: tuple[str, ...]
    rate: float | None
    first: int
    ttft_ms: float
    itl_ms: float
    admission: bool
    seed: int

    @property
    def slo(self) -> Slo:
        return Slo(ttft_ms=self.ttft_ms, itl_ms=self.itl_ms)


@dataclass(frozen=True, slots=True)
class Run:
    """One policy's run."""

    policy: str
    result: "Result"
    summary: "Summary"


def run(asked: Asked, *, quiet: bool = False) -> list[Run]:
    """Simulate each policy in turn; raises InvalidArgument for what is unknown, Unavailable if parts are missing."""
    if "Scenario" not in globals():
        raise Unavailable("the simulator needs the scheduler and gateway parts: pip install 'sagellm[all]'")
    trace = load(asked.trace).first(asked.first) if asked.trace is not None else conversations(asked.first, asked.seed)
    if asked.rate is not None:
        trace = trace.at_rate(asked.rate)
    engines = parse_engines(asked.engines)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), disable=quiet) as progress:
        return [_run(asked, policy, trace, engines, progress) for policy in asked.policies]


def _run(asked: Asked, policy: str, trace: "Trace", engines: "Sequence[EngineSpec]", progress: Progress) -> Run:
    router, queue, pd, *_ = [*policy.split("/"), "", ""]
    scenario = Scenario(
        engines=tuple(engines),
        router=router,
        queue=queue or "fifo",
        pd=pd or "adaptive",
        slo=asked.slo,
        admission_slack=1.0 if asked.admission else None,
        seed=asked.seed,
    )
    task = progress.add_task(policy, total=len(trace.requests))
    world = World(scenario, trace if not asked.admission else trace.with_slo(asked.slo))
    result = world.run(lambda: progress.update(task, completed=len(world.result.ended)))
    progress.update(task, completed=len(trace.requests))
    return Run(policy, result, summarise(result, asked.slo))


def show(asked: Asked, runs: Sequence[Run]) -> None:
    """Print a table, and the share of requests within the SLO as bars."""
    trace = runs[0].result.trace
    out().print(
        f"{len(trace.requests)} requests of {trace.name}, {trace.rate:.2f} a second, on {asked.engines}. "
        f"SLO: first token within {asked.ttft_ms:g} ms (TTFT), then {asked.itl_ms:g} ms a token (ITL).\n",
        markup=False,
    )
    table = Table(box=None, header_style="bold", padding=(0, 1), collapse_padding=True)
    table.add_column("policy", overflow="fold")  # a narrow terminal folds names, and leaves figures whole
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for item in runs:
        s = item.summary
        figures = (s.ttft_p50 * 1e3, s.ttft_p95 * 1e3, s.ttft_p99 * 1e3)
        table.add_row(
            item.policy,
            *(f"{value:,.0f}" for value in figures),
            *(f"{value * 1e3:.1f}" for value in (s.itl_p50, s.itl_p99)),
            *(f"{s.goodput:.2f}", f"{s.utilisation:.0%}", f"{s.cost:.2f}", f"{s.refused}"),
        )
    out().print(table)
    out().print("\n[bold]Requests within the SLO[/bold]")
    best, widest = max(item.summary.attainment for item in runs), max(len(item.policy) for item in runs)
    for item in runs:
        share = item.summary.attainment
        style = "green" if share == best else "blue"
        bar = "█" * round(share * BAR)
        out().print(f"  {item.policy:<{widest}} [{style}]{bar:<{BAR}}[/{style}] {share:.1%}")


def as_json(asked: Asked, runs: Sequence[Run]) -> dict[str, Any]:
    """For programs."""
    trace = runs[0].result.trace
    return {
        "trace": trace.name,
        "requests": len(trace.requests),
        "rate_per_s": round(trace.rate, 4),
        "engines": asked.engines,
        "slo": asked.slo.model_dump(exclude_none=True),
        "policies": {item.policy: item.summary.as_dict() for item in runs},
    }


def check_plotting() -> None:
    """Raise Unavailable without matplotlib, before anything is simulated."""
    if find_spec("matplotlib") is None:
        raise Unavailable(f"a picture needs matplotlib: {own_python()} -m pip install matplotlib")


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw the distributions of both times, and by policy what else the table has; raises InvalidArgument where `path`
    cannot be written."""
    try:
        picture(runs).savefig(path)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path} cannot be written: {error}", param="plot") from error


def picture(runs: Sequence[Run]) -> "Figure":
    """Two curves for each policy above, four bars below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5 + 0.3 * len(runs)), layout="constrained")
    rows = [["ttft", "ttft", "itl", "itl"], list(BARS)]
    axes: dict[str, Any] = figure.subplot_mosaic(rows, height_ratios=(4.0, 0.5 + 0.3 * len(runs)))
    for item in runs:
        ended = item.result.ended
        _curve(axes["ttft"], item.policy, [e.ttft_s * 1e3 for e in ended if e.ttft_s is not None])
        _curve(axes["itl"], item.policy, [e.itl_s * 1e3 for e in ended if e.itl_s is not None])
    for name, title in (("ttft", "time to first token, ms"), ("itl", "time per token, ms")):
        axes[name].set(xlabel=title, ylabel="share of requests", xscale="log", ylim=(0, 1))
        axes[name].xaxis.set_major_formatter("{x:,g}")
        axes[name].xaxis.set_minor_formatter("{x:,g}")
        limit = getattr(runs[0].result.scenario.slo, f"{name}_ms")
        axes[name].axvline(limit, color="grey", linestyle=":", label="SLO")
        axes[name].grid(alpha=0.3)
    axes["itl"].legend()
    for name, (title, factor) in BARS.items():
        values = [factor * getattr(item.summary, name) for item in runs]
        bars = axes[name].barh([item.policy for item in runs], values, color=[f"C{n}" for n in range(len(runs))])
        axes[name].bar_label(bars, fmt="{:,.3g}", padding=2)
        axes[name].set(xlabel=title, xlim=(0, 1.25 * max(max(values), 1e-9)))
        axes[name].invert_yaxis()
        if name != next(iter(BARS)):
            axes[name].set_yticklabels([])
    return figure


def _curve(axis: Any, label: str, values: Sequence[float]) -> None:
    ordered = sorted(values)
    axis.plot(ordered, [(place + 1) / len(ordered) for place in range(len(ordered))], label=label)
