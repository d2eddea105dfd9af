"""`sagellm plan` beside a stack with a planner, and where there is none."""

import json
from typing import Any

import pytest

from sagellm_common.bus import Bus
from sagellm_common.contracts.plan import EngineGroup, FleetPlan
from sagellm_common.nats_server import NatsServer
from sagellm_common.settings import BusSettings

pytestmark = pytest.mark.timeout(240)


def test_a_scaled_stack_shows_its_planner_and_its_plan(terminal: Any, port: int) -> None:
    """`serve --scale 1..2` starts a planner that `status` shows; `plan` says what is wanted; `stop` ends it too."""
    terminal.env["SAGELLM_PLAN_EVERY_S"] = "0.2"
    served = terminal.run("serve", "--backend", "mock", "--port", str(port), "--scale", "1..2")
    assert served.returncode == 0, served.stdout + served.stderr
    services = json.loads(terminal.run("status", "--json").stdout)["services"]
    [planner] = [service for service in services if service["service"] == "planner"]
    assert (planner["instance"], planner["metadata"]["deployment"]) == ("planner", "default")
    shown = terminal.run("plan")
    assert shown.returncode == 0, shown.stderr
    assert "mock-model: 1 engine is wanted, 1 ready" in shown.stdout
    assert "No planner answers" not in shown.stderr
    [plan] = json.loads(terminal.run("plan", "mock-model", "--json").stdout)
    assert (plan["model"], plan["groups"][0]["count"], plan["ready"]) == ("mock-model", 1, {"hybrid": 1})
    unknown = terminal.run("plan", "nobody/nothing")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.strip() == "there is no plan for 'nobody/nothing'; there are plans for mock-model"
    assert "planner_started" in terminal.run("logs", "planner").stdout
    assert terminal.run("stop").returncode == 0
    assert terminal.wait_for_silence() == []


async def test_without_a_planner_it_says_how_to_have_one(terminal: Any, own_nats_server: NatsServer) -> None:
    """No planner and no plan is one sentence with what to do; a plan that one has left is shown with a warning."""
    absent = terminal.run("plan", "--nats", own_nats_server.url)
    assert (absent.returncode, absent.stdout) == (1, "")
    assert absent.stderr.startswith("no planner answers, and none has left a plan: `sagellm up --scale 1..4` starts")
    bus = await Bus.connect(BusSettings(nats_url=own_nats_server.url), "test")
    bucket = await bus.bucket(bus.settings.subjects.bucket("plans"))
    await bucket.put("m", FleetPlan(model="m", time_s=0.0, groups=[EngineGroup(kind="k", count=2)]))
    await bus.close()
    left = terminal.run("plan", "--nats", own_nats_server.url)
    assert left.returncode == 0
    assert "m: 2 engines are wanted, 0 ready" in left.stdout
    assert "No planner answers: these plans stay as they are." in left.stderr


def test_a_planner_without_a_plan_says_when_it_makes_one(terminal: Any, own_nats_server: NatsServer) -> None:
    """A planner beside no engine has nothing to plan with yet, which is said."""
    terminal.env["SAGELLM_NATS_URL"] = own_nats_server.url
    planner = terminal.start_python("-m", "sagellm_scheduler.planner")
    planner.wait_for("planner_started")
    shown = terminal.run("plan")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "the planner has made no plan yet: it does so once an engine runs" in shown.stderr
