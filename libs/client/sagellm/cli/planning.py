"""The plans of the bucket `plans`, for people."""

import asyncio
import time
from dataclasses import dataclass

from rich.table import Table

from sagellm.cli.console import err, out
from sagellm.launcher.readiness import ping_services
from sagellm_common.bus import Bus
from sagellm_common.contracts.plan import FleetPlan
from sagellm_common.errors import NotFound, Unavailable

HOW = "`sagellm up --scale 1..4` starts one with everything else, `python -m sagellm_scheduler.planner` one alone"


@dataclass(frozen=True, slots=True)
class Found:
    """Plans, ordered by model, and whether a planner answers that keeps them current."""

    plans: list[FleetPlan]
    is_current: bool


async def find_plans(bus: Bus, model: str | None) -> Found:
    """Read the plans of all models or of one.

    Raises Unavailable, saying what to do, if there is none yet, and NotFound if there is none for `model`.
    """
    planners, plans = await asyncio.gather(_num_planners(bus), _read(bus))
    if not plans and not planners:
        raise Unavailable(f"no planner answers, and none has left a plan: {HOW}")
    if not plans:
        raise Unavailable("the planner has made no plan yet: it does so once an engine runs; ask again in a while")
    chosen = [plan for plan in plans if model in (None, plan.model)]
    if not chosen:
        known = ", ".join(plan.model for plan in plans)
        raise NotFound(f"there is no plan for {model!r}; there are plans for {known}")
    return Found(chosen, planners > 0)


async def _num_planners(bus: Bus) -> int:
    pongs = await ping_services(bus)
    ours = {"", bus.settings.deployment}
    return sum(pong.service == "planner" and pong.metadata.get("deployment", "") in ours for pong in pongs)


async def _read(bus: Bus) -> list[FleetPlan]:
    bucket = await bus.bucket(bus.settings.subjects.bucket("plans"))
    return sorted((await bucket.read_all(FleetPlan)).values(), key=lambda plan: plan.model)


def print_plans(found: Found) -> None:
    """Print each plan, and a warning if nobody keeps them current."""
    for number, plan in enumerate(found.plans):
        if number:
            out().print()
        print_plan(plan, time.time())
    if not found.is_current:
        err().print(f"No planner answers: these plans stay as they are. {HOW[0].upper()}{HOW[1:]}.", style="yellow")


def print_plan(plan: FleetPlan, now: float) -> None:
    """Print one plan as it is at `now`, in seconds since the epoch."""
    out().print(plan_sentence(plan, now), style="bold", markup=False)
    table = Table("role", "kind", "layout", "wanted", "ready", box=None, header_style="bold")
    for group in plan.groups:
        table.add_row(group.role, group.kind, group.layout, str(group.count), str(plan.ready.get(group.role, 0)))
    out().print(table)
    for label, text in figures(plan):
        out().print(f"{label:<9}{text}", markup=False)


def plan_sentence(plan: FleetPlan, now: float) -> str:
    """Say in one sentence how many engines are wanted and how many are ready."""
    engines = "engine is" if plan.count == 1 else "engines are"
    return f"{plan.model}: {plan.count} {engines} wanted, {plan.engines_now} ready (planned {_ago(now - plan.time_s)})"


def figures(plan: FleetPlan) -> list[tuple[str, str]]:
    """Return what the plan follows from, as labels and texts."""
    met = "too few requests to say" if plan.attainment is None else f"{plan.attainment:.1%} in the last five minutes"
    mean = plan.request
    request = (
        "none seen yet" if mean is None else f"{mean.new:.0f} tokens to prefill and {mean.output:.0f} of an answer"
    )
    return [
        ("rate", f"{plan.requests_per_s:.3g} requests/s in the last ten minutes, {plan.expected_per_s:.3g} expected"),
        ("request", request),
        ("burst", f"{plan.burst:.2f} times as much comes in half a minute"),
        ("margin", f"{plan.margin:.2f} times as much as computed, learnt from the SLOs"),
        ("SLOs met", met),
        ("cost", f"{plan.price_per_hour:.4g} an hour"),
        ("why", plan.reason),
    ]


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"
