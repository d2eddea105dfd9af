"""Engines of a local stack come and go as plans say, and no request notices."""

import asyncio
import os
import signal
from pathlib import Path

from integration.scaling.conftest import Asked, Checker, ScaledStack, checking, scaled_stack

from sagellm_common.contracts.decisions import DecisionRecord, ExplainRequest
from support.wait import eventually

NOT_BY_ITSELF = {"SAGELLM_PLAN_EVERY_S": "3600"}
"""The stack's own planner is silent, and the test writes the plans."""

EVENLY = "load_balanced"

BY_LOAD = {
    "SAGELLM_SLO_TTFT_MS": "10000",
    "SAGELLM_SLO_ITL_MS": "12",  # four sequences beside one another: what an engine decodes is then known
    "SAGELLM_ADMISSION_SLACK": "",  # nothing is refused while one engine has it all
    "SAGELLM_PLAN_ATTAINMENT": "0.05",  # so that what one engine missed does not keep the others for long
    "SAGELLM_PLAN_EVERY_S": "0.5",
    "SAGELLM_PLAN_HOLD_S": "10",  # no less than a start takes, else an engine may be given up while it starts
}
LOAD_PER_S, SHORT, ANSWER = 6, 100, 150


async def test_a_stack_grows_under_load_and_shrinks_without(tmp_path: Path) -> None:
    """More comes than one engine does within the SLO: a planner brings three, and gives engines up when it is over.

    Every answer of the load, and of a stream of requests that goes on throughout, is whole and right.
    """
    async with scaled_stack(tmp_path, **BY_LOAD) as running, checking(running) as checker:
        await checker.learn(SHORT, numbers=5)
        load = asyncio.create_task(_ask_for_ever(checker, LOAD_PER_S))
        await eventually(lambda: len(running.engines) == 3, 60, f"three engines: {running.changes}")
        load.cancel()
        quiet = asyncio.create_task(_ask_for_ever(checker, 0.5))
        await eventually(lambda: len(running.engines) < 3, 60, f"fewer engines: {running.changes}")
        leaving = next(change.name for change in running.changes if change.state == "stopping")
        await running.gone(leaving)
        quiet.cancel()
        plan = await running.plan(lambda plan: plan.engines_now < 3)
        assert plan.expected_per_s < LOAD_PER_S
        said = running.said(leaving)
        assert said[:4] == ["starting", "ready", "stopping", "stopped"]
        assert said[4:] in ([], ["starting"], ["starting", "ready"]), "it may be wanted again, and is none the worse"


async def _ask_for_ever(checker: Checker, per_s: float) -> None:
    """Ask at a steady pace, whatever the answers take."""
    number = 0
    while True:
        checker.ask(SHORT, number % 5)
        number += 1
        await asyncio.sleep(1 / per_s)


async def test_an_engine_that_is_to_go_finishes_and_one_that_dies_meanwhile_stays_away(tmp_path: Path) -> None:
    """The idler engine is drained. Killed while it drains, it is not started again, and its streams go on elsewhere
    with the same tokens; wanted again, it comes again; left alone, it finishes them at their first attempt."""
    async with scaled_stack(tmp_path, EVENLY, **NOT_BY_ITSELF) as running, checking(running) as checker:
        await checker.learn(ANSWER)
        for is_killed in (True, False):
            running.changes.clear()
            await running.want(2)
            await running.state("engine-2", "ready")
            streams = await _streams_on_both(running, checker)
            await running.want(1)
            await running.state("engine-2", "stopping")
            if is_killed:
                os.kill(running.stack.children["engine-2"].pid or 0, signal.SIGKILL)
            await running.gone("engine-2")
            await checker.check()
            record = await _explained(running, streams["engine-2"].id)
            assert [made.chosen for made in record.decisions] == ["engine-2", "engine-1"][: 1 + is_killed]
            between = ["died"] if is_killed else []
            assert running.said("engine-2") == ["starting", "ready", "stopping", *between, "stopped"]
        assert running.engines == ["engine-1"]


async def _streams_on_both(running: ScaledStack, checker: Checker) -> dict[str, Asked]:
    """Have both engines stream, the second no more than the first: then the second, which is younger, is to go."""
    found: dict[str, list[Asked]] = {"engine-1": [], "engine-2": []}
    while not 1 <= len(found["engine-2"]) <= len(found["engine-1"]):
        asked = checker.ask(ANSWER)
        await asked.progressed()
        found[(await _explained(running, asked.id)).decisions[-1].chosen].append(asked)
    return {name: streams[0] for name, streams in found.items()}


async def _explained(running: ScaledStack, request_id: str) -> DecisionRecord:
    assert running.bus is not None
    subject = running.bus.settings.subjects.explain
    return await running.bus.request(subject, ExplainRequest(request_id=request_id.rpartition("-")[2]), DecisionRecord)


async def test_a_planner_that_dies_is_restarted_and_goes_on(tmp_path: Path) -> None:
    """A killed planner comes back with hours and margin of the kept plan, and gives up nothing that it wanted."""
    async with scaled_stack(tmp_path, SAGELLM_PLAN_EVERY_S="0.3", SAGELLM_PLAN_HOLD_S="600") as running:
        await running.plan(lambda plan: plan.engines_now == 1)
        os.kill(running.stack.children["planner"].pid or 0, signal.SIGKILL)
        await running.state("planner", "died")
        await running.want(2, hours=[0.01] * 50, margin=1.9)
        plan = await running.plan(lambda plan: plan.reason.startswith("as before") and plan.engines_now == 2)
        assert (plan.count, plan.margin, set(plan.hours)) == (2, 1.9, {0.01})
        assert running.said("planner") == ["starting", "ready", "died", "restarting"]
        assert running.engines == ["engine-1", "engine-2"]


async def test_a_stop_while_engines_come_and_go_leaves_nothing(tmp_path: Path) -> None:
    """The stack is stopped as one engine drains with an open stream and another starts: no process is left."""
    async with scaled_stack(tmp_path, EVENLY, **NOT_BY_ITSELF) as running, checking(running) as checker:
        await running.want(2)
        await running.state("engine-2", "ready")
        await _streams_on_both(running, checker)
        await running.want(1)
        await running.state("engine-2", "stopping")
        await running.want(2)
        await running.state("engine-3", "starting")
        await running.stack.stop()
        assert set(running.stack.states.values()) == {"stopped"}
        await checker.forget()  # what does not end in the gateway's grace ends with it
