"""The planner on a real nats-server: what it hears, what it keeps, what survives, whom it drives."""

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from sagellm_common.bus import Bus
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.plan import EngineGroup, FleetPlan
from sagellm_common.errors import Unavailable
from sagellm_common.nats_server import NatsServer
from sagellm_common.settings import BusSettings
from sagellm_scheduler.planner.core import Planner
from sagellm_scheduler.planner.kubernetes import DELETION_COST, Cluster, KubernetesScaler
from sagellm_scheduler.planner.metrics import PlannerMetrics
from sagellm_scheduler.planner.scaler import Scaler
from sagellm_scheduler.planner.service import PlannerService, serve
from sagellm_scheduler.planner.settings import PlannerSettings
from support.kubernetes_api import NAMESPACE, KubernetesApi, running_kubernetes
from support.processes import Services, ping
from support.scheduler_peers import Surroundings
from support.wait import eventually, eventually_async

LABELS = {"sagellm.io/model": "m", "sagellm.io/role": "hybrid"}
Plans = Callable[[], Awaitable[dict[str, FleetPlan]]]


@pytest.fixture
async def around(bus: Bus) -> AsyncIterator[Surroundings]:
    """The engines that the test adds, and a gateway."""
    async with Surroundings.on(bus) as surroundings:
        yield surroundings


@pytest.fixture
def plans(bus: Bus) -> Plans:
    """Reads the plans in the bucket, by key."""
    return lambda: read_plans(bus)


async def read_plans(bus: Bus) -> dict[str, FleetPlan]:
    bucket = await bus.bucket(bus.settings.subjects.bucket("plans"))
    return await bucket.read_all(FleetPlan)


async def keep(bus: Bus, model: str, count: int = 1, **fields: Any) -> FleetPlan:
    """Put a plan for hybrid engines into the bucket, as a planner of before would have left it."""
    hour = int(time.time() / 3600)
    plan = FleetPlan(
        model=model, time_s=1.0, groups=[EngineGroup(kind="mock", count=count)], **{"last_hour": hour, **fields}
    )
    bucket = await bus.bucket(bus.settings.subjects.bucket("plans"))
    await bucket.put(model, plan)
    return plan


@asynccontextmanager
async def planning(
    bus: Bus, scaler: Scaler | None = None, metrics: PlannerMetrics | None = None, **settings: Any
) -> AsyncIterator[PlannerService]:
    """A planner in this process, that plans twenty times a second, for the time of the block."""
    made = PlannerSettings(**{**bus.settings.model_dump(), "plan_every_s": 0.05, **settings})
    service = PlannerService(made, bus, scaler, metrics or PlannerMetrics())
    await service.start()
    yield service
    await service.stop()


async def planned(plans: Plans, holds: Callable[[FleetPlan], bool], model: str = "m") -> FleetPlan:
    """Return the first plan for a model that fulfils a condition."""
    found: list[FleetPlan] = []

    async def come() -> bool:
        found[:] = [plan for plan in (await plans()).values() if plan.model == model and holds(plan)]
        return bool(found)

    await eventually_async(come, what=f"a plan for {model}")
    return found[0]


async def test_a_planner_process_answers_plans_and_ends(
    services: Services, bus: Bus, bus_settings: BusSettings, around: Surroundings, plans: Plans
) -> None:
    """`python -m sagellm_scheduler.planner` answers `$SRV.PING`, keeps a plan for an engine, and ends on SIGTERM."""
    process = services.start("scheduler.planner", bus_settings, planner_id="p1", plan_every_s=0.1)

    async def answers() -> bool:
        assert process.exit_code is None, process.log_text()
        return "p1" in await _planners(bus)

    await eventually_async(answers, 40, "the planner's answer to a ping")
    around.engine("e1")
    plan = await planned(plans, lambda plan: plan.engines_now == 1)
    assert (plan.count, plan.ready, plan.groups[0].kind) == (1, {"hybrid": 1}, "mock")
    process.terminate()
    assert await process.wait() == 0, process.log_text()
    assert await _planners(bus) == set()


async def _planners(bus: Bus) -> set[str]:
    """The planners of our deployment that answer."""
    found: list[Any] = [pong["metadata"] for pong in await ping(bus, "planner")]
    return {about["id"] for about in found if about["deployment"] == bus.settings.deployment}


async def test_the_metrics_show_the_plan(
    services: Services, bus: Bus, bus_settings: BusSettings, around: Surroundings
) -> None:
    """Wanted and ready engines, rates, margin and cost are gauges by model."""
    metrics = PlannerMetrics()

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"sagellm_planner_{name}", {"model": "m", **labels})

    around.engine("e1", price_per_hour=2.5)
    async with planning(bus, metrics=metrics, plan_least=2):
        await eventually(lambda: value("engines_wanted", role="hybrid") == 2.0 and value("engines_ready") == 1.0)
    assert value("price_per_hour") == 5.0
    assert (value("margin_ratio") or 0.0) >= 1.0


async def test_only_what_engines_serve_is_planned_for(bus: Bus, around: Surroundings, plans: Plans) -> None:
    """Clients may ask for any name: no plan is made for it. Names of engines and models may have any characters."""
    async with planning(bus):
        for model in ("made-up", "org/m.1"):
            event = RequestEvent(request_id="r", phase="accepted", model=model, prompt_tokens=10)
            await bus.publish(bus.settings.subjects.request_event("accepted"), event)
        around.engine("host.example", models=("org/m.1",))
        await planned(plans, lambda plan: plan.ready == {"hybrid": 1}, "org/m.1")
        assert [plan.model for plan in (await plans()).values()] == ["org/m.1"]


async def test_engines_that_drain_or_leave_are_not_ready(bus: Bus, around: Surroundings, plans: Plans) -> None:
    """What reports say counts at once; an engine whose entry is gone is none. Roles are told apart."""
    leaving = around.engine("e.1")
    draining = around.engine("e2", role="decode")
    async with planning(bus):
        await planned(plans, lambda plan: plan.ready == {"hybrid": 1, "decode": 1})
        draining.gauges = {"state": "draining"}
        await planned(plans, lambda plan: plan.ready == {"hybrid": 1} and plan.engines_now == 1)
        leaving.is_reporting = False
        engines = await bus.bucket(bus.settings.subjects.bucket("engines"))
        await engines.delete("ZS4x")  # "e.1" as a token
        await planned(plans, lambda plan: plan.ready == {} and plan.engines_now == 0)


async def test_a_planner_goes_on_from_what_it_kept(bus: Bus, around: Surroundings, plans: Plans) -> None:
    """Margin and hours of the kept plan go on; engines are not given up before it has listened for long enough."""
    await keep(bus, "m", 3, margin=1.7, hours=[2.0] * 30, price_per_hour=3.0)
    around.engine("e1")
    async with planning(bus, plan_hold_s=600):
        plan = await planned(plans, lambda plan: plan.time_s > 1.0)
        assert (plan.count, plan.margin, plan.price_per_hour) == (3, 1.7, 3.0)
        assert plan.hours[:30] == [2.0] * 30
        assert plan.reason.startswith("as before, until it has listened for 600 s; an engine")
    async with planning(bus, plan_hold_s=600, plan_most=2):
        await planned(plans, lambda plan: plan.count == 2)
    async with planning(bus, plan_hold_s=0.1):
        await planned(plans, lambda plan: plan.count == 1)


async def test_a_planner_that_comes_to_a_running_fleet_gives_up_nothing_at_first(
    bus: Bus, around: Surroundings, plans: Plans
) -> None:
    """Three engines run, whoever started them, and no load has been heard yet: they are kept until it is known that
    they are not needed, even if a planner of long ago wanted fewer."""
    for name in ("e1", "e2", "e3"):
        around.engine(name, price_per_hour=2.0)
    async with planning(bus, plan_hold_s=600):
        plan = await planned(plans, lambda plan: plan.engines_now == 3)
        assert (plan.count, plan.price_per_hour) == (3, 6.0)
    await keep(bus, "m", 1)
    async with planning(bus, plan_hold_s=600):
        assert (await planned(plans, lambda plan: plan.engines_now == 3)).count == 3
    async with planning(bus, plan_hold_s=0.1):
        await planned(plans, lambda plan: plan.count == 1)


async def test_plans_survive_a_bus_that_has_lost_everything(own_nats_server: NatsServer) -> None:
    """The server comes back without its files: the bucket is made anew, with every plan, and planning goes on."""
    settings = BusSettings(nats_url=own_nats_server.url)
    bus, reader = [await Bus.connect(settings, name) for name in ("planner", "reader")]
    kept = await keep(bus, "kept", 2, hours=[1.0, 2.0])
    async with Surroundings.on(reader) as around, planning(bus):
        around.engine("e1")
        before = await planned(lambda: read_plans(reader), lambda plan: plan.engines_now == 1)
        own_nats_server.kill()
        shutil.rmtree(own_nats_server.store / "jetstream")
        own_nats_server.start()

        async def restored() -> bool:
            try:
                return (await read_plans(reader)).get("kept") == kept
            except Unavailable:
                return False

        await eventually_async(restored, 20, "the kept plan")
        await planned(lambda: read_plans(reader), lambda plan: plan.time_s > before.time_s + 0.2)
    await bus.close()
    await reader.close()


async def test_nothing_is_planned_while_the_bus_is_away(
    own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence of the bus is no silence of the clients: no plan is made of it, the fleet stays as it is, and the planner
    is told that it was deaf."""
    told: list[float] = []
    monkeypatch.setattr(Planner, "deaf", lambda planner, now: told.append(now))
    settings = BusSettings(nats_url=own_nats_server.url)
    bus, player = [await Bus.connect(settings, name) for name in ("planner", "player")]
    scaler = _Recorder(bus)
    async with Surroundings.on(player) as around, planning(bus, scaler, plan_least=2, plan_every_s=0.01):
        around.engine("e1")
        await eventually(lambda: scaler.asked > 2)
        own_nats_server.stop()
        await eventually(lambda: not bus.is_connected)
        assert told == []
        own_nats_server.start()  # takes many times as long as it is from plan to plan
        asked = scaler.asked
        await eventually(lambda: scaler.asked > asked + 3, 20, "plans after the bus is back")
    assert len(told) == 1
    assert scaler.asked_without_bus <= 1  # the plan that was under way
    await bus.close()
    await player.close()


class _Recorder:
    """A scaler that only counts how often it is asked, and never has anything to do."""

    def __init__(self, bus: Bus) -> None:
        self.asked = self.asked_without_bus = 0
        self._bus = bus

    async def count(self, model: str, role: str) -> int:
        self.asked += role == "hybrid"
        self.asked_without_bus += role == "hybrid" and not self._bus.is_connected
        return 2 if role == "hybrid" else 0

    async def scale(self, model: str, role: str, count: int, num_open: object) -> None:
        raise AssertionError("there are as many as are wanted")


async def test_without_statsmodels_it_plans_on_and_says_so_once(
    bus: Bus, around: Surroundings, plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forecasts need statsmodels: without it plans come without them, with one warning that says what to install."""
    monkeypatch.setitem(sys.modules, "statsmodels.tsa.holtwinters", None)
    for model in ("m", "n"):
        await keep(bus, model, hours=[1.0, 2.0] * 30)
    around.engine("e1", models=("m", "n"))
    with structlog.testing.capture_logs() as logs:
        async with planning(bus, plan_hold_s=0):
            for model in ("m", "n"):
                first = await planned(plans, lambda plan: plan.engines_now == 1, model)
                await planned(plans, lambda plan, first=first: plan.time_s > first.time_s, model)  # type: ignore[misc]
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["event"] for entry in warnings] == ["no_forecast"], logs
    assert "pip install 'sagellm[planner]'" in warnings[0]["reason"]


async def test_a_fit_that_fails_does_not_stop_planning(
    bus: Bus, around: Surroundings, plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a forecast raises is logged once for its hours, and plans go on without one."""

    def fail(hours: object) -> None:
        raise ValueError("singular matrix")

    monkeypatch.setattr("sagellm_scheduler.planner.service.next_hours", fail)
    around.engine("e1")
    with structlog.testing.capture_logs() as logs:
        async with planning(bus):
            first = await planned(plans, lambda plan: plan.engines_now == 1)
            await planned(plans, lambda plan: plan.time_s > first.time_s)
    assert [entry["event"] for entry in logs].count("forecast_failed") == 1


@pytest.fixture
async def cluster() -> AsyncIterator[KubernetesApi]:
    """A cluster with one Deployment of one hybrid engine, whose pod is `engine-0`."""
    async with running_kubernetes() as api:
        api.deployment("engine", LABELS)
        yield api


@asynccontextmanager
async def scaling(api: KubernetesApi, folder: Path) -> AsyncIterator[KubernetesScaler]:
    (folder / "token").write_text(api.token)
    scaler = KubernetesScaler(Cluster(url=api.url, namespace=NAMESPACE, token=folder / "token"))
    yield scaler
    await scaler.close()


async def test_a_plan_leads_to_a_patch_of_the_deployment(
    bus: Bus, around: Surroundings, cluster: KubernetesApi, tmp_path: Path
) -> None:
    """Three engines are wanted and one runs: the scale is patched once; fewer follow once three are ready, the idle
    pods being the cheapest."""
    around.engine("engine-0").gauges = {"running": 2, "waiting": 1}
    async with scaling(cluster, tmp_path) as scaler:
        async with planning(bus, scaler, plan_least=3):
            await eventually(lambda: cluster.deployments["engine"].replicas == 3)
        await keep(bus, "m", 1)
        for name in ("engine-1", "engine-2"):
            cluster.pods[name] = type(cluster.pods["engine-0"])(name, LABELS)
            around.engine(name)
        async with planning(bus, scaler, plan_hold_s=0):
            await eventually(lambda: cluster.deployments["engine"].replicas == 1)
    assert cluster.patches("deployments/scale") == [
        ("engine", {"spec": {"replicas": 3}}),
        ("engine", {"spec": {"replicas": 1}}),
    ]
    assert {name: pod.annotations.get(DELETION_COST, "0") for name, pod in cluster.pods.items()} == {
        "engine-0": "3",
        "engine-1": "0",
        "engine-2": "0",
    }


async def test_a_cluster_that_refuses_does_not_stop_planning(
    bus: Bus, around: Surroundings, plans: Plans, cluster: KubernetesApi, tmp_path: Path
) -> None:
    """Without the right to patch, plans are made, kept and counted as not followed; with it, they are followed."""
    metrics = PlannerMetrics()

    def failures() -> float:
        return metrics.registry.get_sample_value("sagellm_planner_failures_total", {"what": "scale"}) or 0.0

    around.engine("engine-0")
    async with scaling(cluster, tmp_path) as scaler, planning(bus, scaler, metrics, plan_least=2):
        with cluster.answering("patch", "deployments/scale", 403, '{"message": "forbidden"}'):
            await eventually(lambda: failures() >= 2)
            assert (await planned(plans, lambda plan: True)).count == 2
            assert cluster.deployments["engine"].replicas == 1
        await eventually(lambda: cluster.deployments["engine"].replicas == 2)


async def test_outside_of_a_cluster_it_does_not_start(bus_settings: BusSettings) -> None:
    """`SAGELLM_SCALER=kubernetes` on any machine ends the start with what to set."""
    settings = PlannerSettings(**bus_settings.model_dump(), scaler="kubernetes")
    with pytest.raises(Unavailable, match="set SAGELLM_KUBERNETES_URL"):
        await serve(settings, asyncio.Event())
