"""The scheduler alone as a real process on a real nats-server; the test plays engines and gateways."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg
from opentelemetry import context, trace

from sagellm_common.bus import Bus
from sagellm_common.codec import JSON
from sagellm_common.contracts.engines import ENGINES_TTL_S
from sagellm_common.contracts.policy import PolicyChange, PolicyReply
from sagellm_common.contracts.scheduling import SubmitReply
from sagellm_common.errors import InvalidArgument, NotFound, error_from_dict
from sagellm_common.nats_server import free_port
from sagellm_common.settings import BusSettings
from support.processes import ServiceProcess, Services, ping
from support.scheduler_peers import Surroundings
from support.scheduling import registration
from support.wait import eventually, eventually_async


@pytest.fixture
async def around(bus: Bus) -> AsyncIterator[Surroundings]:
    """A gateway that the test plays, and whatever engines it adds."""
    async with Surroundings.on(bus) as surroundings:
        yield surroundings


@pytest.fixture
async def scheduler(services: Services, bus: Bus, bus_settings: BusSettings) -> ServiceProcess:
    """One scheduler process, `s1`, that is up."""
    process = services.start("scheduler", bus_settings, scheduler_id="s1", max_queue_time_s=2)
    await process.up(bus)
    return process


async def test_a_submit_is_queued_and_then_assigned(scheduler: ServiceProcess, around: Surroundings) -> None:
    """A submit is answered as queued, and its assignment arrives with engine, incarnation and number."""
    around.engine("e1")
    await around.ready("s1")
    assert (await around.gateway.submit("s1", "r1")).status == "queued"
    assignment = await around.gateway.assignment("r1")
    assert (assignment.engine_id, assignment.incarnation, assignment.epoch) == ("e1", "i1", 0)
    assert assignment.number > 0
    assert assignment.leader_epoch > (0, 0)


async def test_a_duplicate_submit_gets_the_same_assignment(scheduler: ServiceProcess, around: Surroundings) -> None:
    """The same epoch submitted twice is decided once, and the assignment is published twice."""
    around.engine("e1")
    around.engine("e2")
    await around.ready("s1", engines=2)
    for _ in range(2):
        await around.gateway.submit("s1", "r1")
    await eventually(lambda: len(around.gateway.assigned("r1")) == 2)
    first, second = around.gateway.assigned("r1")
    assert first == second


async def test_a_burst_is_spread_over_the_engines(scheduler: ServiceProcess, around: Surroundings) -> None:
    """Sixteen submits between two reports go to four engines in equal shares."""
    names = ["e1", "e2", "e3", "e4"]
    engines = [around.engine(name, max_num_seqs=64) for name in names]
    await around.ready("s1", engines=4)
    for engine in engines:
        engine.is_reporting = False
    for number in range(16):
        await around.gateway.submit("s1", f"r{number}")
    chosen = [(await around.gateway.assignment(f"r{number}")).engine_id for number in range(16)]
    assert {name: chosen.count(name) for name in names} == dict.fromkeys(names, 4)


async def test_unknown_models_and_endless_prompts_are_refused_at_once(
    scheduler: ServiceProcess, around: Surroundings
) -> None:
    """Both come back as rejected with their typed error; the model's error names the models that are known."""
    around.engine("e1")
    await around.ready("s1")
    unknown = await around.gateway.submit("s1", "r1", model="nobody/has.it")
    assert unknown.error is not None
    assert unknown.error["code"] == "not_found"
    assert "known models: m" in unknown.error["message"]
    endless = await around.gateway.submit("s1", "r2", prompt_tokens=10**6)
    assert endless.error is not None
    assert endless.error["code"] == "invalid_argument"


async def test_a_model_whose_engine_has_just_registered_is_known(
    scheduler: ServiceProcess, around: Surroundings
) -> None:
    """A submit that overtakes the news of the first engine of its model is queued, not refused."""
    around.engine("e1")
    await around.ready("s1")
    engines = await around.bus.bucket(around.bus.settings.subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
    for number in range(10):
        model = f"new-{number}"
        await engines.put(f"e-{number}", registration(f"e-{number}", models=(model,)))
        reply = await around.gateway.submit("s1", f"r{number}", model=model)
        assert (reply.status, reply.error) == ("queued", None)


async def test_a_request_that_waits_too_long_is_rejected_late(scheduler: ServiceProcess, around: Surroundings) -> None:
    """A queued request that finds no room is given up by a notice after the longest queue time."""
    engine = around.engine("e1", max_num_seqs=1)
    await around.ready("s1")
    engine.gauges = {"running": 1}
    await around.gateway.submit("s1", "occupies")
    assert (await around.gateway.submit("s1", "waits")).status == "queued"
    await eventually(lambda: any(n.request_id == "waits" for n in around.gateway.notices))
    notice = next(n for n in around.gateway.notices if n.request_id == "waits")
    assert notice.kind == "rejected"
    assert notice.error is not None
    assert notice.error["code"] == "resource_exhausted"
    assert notice.error["retry_after_s"] > 0


async def test_a_silent_engine_is_announced_as_lost_to_its_gateways(
    scheduler: ServiceProcess, around: Surroundings
) -> None:
    """An engine that stops reporting is lost after its timeout: gateways are told, new requests go elsewhere."""
    dying = around.engine("e1")
    around.engine("e2")
    await around.ready("s1", engines=2)
    dying.is_reporting = False
    await eventually(lambda: any(n.kind == "engine_lost" for n in around.gateway.notices))
    notice = next(n for n in around.gateway.notices if n.kind == "engine_lost")
    assert (notice.engine_id, notice.incarnation) == ("e1", "i1")
    for number in range(3):
        await around.gateway.submit("s1", f"r{number}")
        assert (await around.gateway.assignment(f"r{number}")).engine_id == "e2"


async def test_a_new_incarnation_means_that_the_old_one_is_lost(
    scheduler: ServiceProcess, around: Surroundings
) -> None:
    """An engine that registers under a new incarnation has lost what the former one was running."""
    first = around.engine("e1")
    await around.ready("s1")
    first.is_reporting = False
    around.engine("e1", incarnation="i2")
    await eventually(lambda: any(n.kind == "engine_lost" for n in around.gateway.notices))
    assert around.gateway.notices[0].incarnation == "i1"


async def test_the_policy_changes_live_and_no_request_is_lost(
    scheduler: ServiceProcess, around: Surroundings, bus: Bus
) -> None:
    """Queued requests move over to the new policy: the urgent one goes first, and all go."""
    engine = around.engine("e1", max_num_seqs=1)
    await around.ready("s1")
    engine.gauges = {"running": 1}
    await around.gateway.submit("s1", "occupies")
    for name, priority in (("low", 3), ("normal", 2), ("critical", 0)):
        await around.gateway.submit("s1", name, priority=priority)
    reply = await bus.request(bus.settings.subjects.policy, PolicyChange(queue="priority"), PolicyReply)
    assert reply.policy.queue == "priority"
    assert reply.policy.router == "predictive"
    assert {"fifo", "priority"} <= set(reply.known_queues)
    order: list[str] = []
    for _ in range(3):
        count = len(around.gateway.assignments)
        last = around.gateway.assignments[-1]
        engine.gauges = {"running": 0, "leader_epoch": last.leader_epoch, "last_assignment": last.number}
        await eventually(lambda count=count: len(around.gateway.assignments) > count)  # type: ignore[misc]  # bound now
        order.append(around.gateway.assignments[-1].request_id)
    assert order == ["critical", "normal", "low"]


async def test_an_unknown_policy_is_an_error_that_lists_the_known_ones(
    scheduler: ServiceProcess, around: Surroundings, bus: Bus
) -> None:
    """Neither an unknown name nor a dotted one is taken over the bus, and what is in force stays."""
    subject = bus.settings.subjects.policy
    for change in (PolicyChange(queue="quickest"), PolicyChange(router="os:getcwd")):
        with pytest.raises(InvalidArgument, match="known are"):
            await bus.request(subject, change, PolicyReply)
    reply = await bus.request(subject, PolicyChange(), PolicyReply)
    assert (reply.policy.queue, reply.policy.router) == ("slo_aware", "predictive")


async def test_explain_says_why_and_what_came_of_it(scheduler: ServiceProcess, around: Surroundings) -> None:
    """The record of a request names candidates, choice and reason, and after the end its outcome."""
    around.engine("e1")
    around.engine("e2")
    await around.ready("s1", engines=2)
    await around.gateway.submit("s1", "r1")
    assignment = await around.gateway.assignment("r1")
    record = await around.gateway.explain("r1")
    (decision,) = record.decisions
    assert decision.chosen == assignment.engine_id
    assert {candidate.engine_id for candidate in decision.candidates} == {"e1", "e2"}
    assert decision.reason.startswith("predictive: least harm of 2 with room")
    await around.gateway.end("r1", ttft_ms=5.0, completion_tokens=3)
    await around.gateway.bus.flush()
    await eventually_outcome(around, "r1", "finished")
    with pytest.raises(NotFound):
        await around.gateway.explain("never-seen")


async def eventually_outcome(around: Surroundings, request_id: str, outcome: str) -> None:
    """Wait until the record of a request names its outcome."""

    async def is_there() -> bool:
        return (await around.gateway.explain(request_id)).outcome == outcome

    await eventually_async(is_there)


async def test_the_service_is_found_by_nats_micro(scheduler: ServiceProcess, bus: Bus) -> None:
    """`$SRV.PING` answers, with the scheduler's id."""
    (pong,) = await ping(bus, "scheduler")
    assert pong["name"] == "sagellm-scheduler"
    assert isinstance(pong["metadata"], dict)
    assert pong["metadata"]["id"] == "s1"


@pytest.mark.parametrize("body", [b"", b"\xc1", b"[1]", b"\xff\xfe", b"{}", b"\x81\xa1"])
async def test_a_malformed_submit_is_an_error_and_the_scheduler_goes_on(
    scheduler: ServiceProcess, around: Surroundings, bus: Bus, body: bytes
) -> None:
    """Garbage on every subject it listens to harms nobody: the next submit is served."""
    around.engine("e1")
    await around.ready("s1")
    subjects = bus.settings.subjects
    for headers in (None, {"Content-Type": JSON}):
        answer = await bus.client.request(subjects.submit("s1"), body, headers=headers)
        assert answer.headers is not None
        assert answer.headers["Nats-Service-Error-Code"] == "400"
        for subject in (subjects.engine_metrics("e1"), subjects.request_event("finished"), "x"):
            await bus.client.publish(subject, body, headers=headers)
        await bus.client.publish(subjects.gateway_heartbeat("*").replace("*", "g9"), body, headers=headers)
    assert (await around.gateway.submit("s1", "r1")).status == "queued"
    await around.gateway.assignment("r1")
    assert scheduler.exit_code is None


async def test_a_submit_may_be_json(scheduler: ServiceProcess, around: Surroundings, bus: Bus) -> None:
    """A person may submit by hand in JSON and reads JSON; unknown fields are ignored."""
    around.engine("e1")
    await around.ready("s1")
    body = (
        b'{"request_id": "r1", "gateway_id": "g1", "model": "m", "prompt_tokens": 3, "max_tokens": 3, "colour": "red"}'
    )
    answer = await bus.client.request(bus.settings.subjects.submit("s1"), body, headers={"Content-Type": JSON})
    assert SubmitReply.model_validate_json(answer.data).status == "queued"


async def test_the_trace_of_a_submit_goes_on_in_its_assignment(
    scheduler: ServiceProcess, around: Surroundings, bus: Bus
) -> None:
    """An assignment carries the trace id of the submit that it answers, in the W3C header."""
    around.engine("e1")
    await around.ready("s1")
    received: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def keep(msg: Msg) -> None:
        received.put_nowait(dict(msg.headers or {}))

    await bus.client.subscribe(bus.settings.subjects.gateway_assign("g1"), cb=keep)
    await bus.flush()
    parent = trace.SpanContext(trace_id=0xABC, span_id=9, is_remote=True, trace_flags=trace.TraceFlags(1))
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(parent)))
    try:
        await around.gateway.submit("s1", "traced")
    finally:
        context.detach(token)
    headers = await asyncio.wait_for(received.get(), 30)
    assert headers["traceparent"].split("-")[1] == format(0xABC, "032x")


async def test_metrics_are_served(services: Services, around: Surroundings, bus: Bus) -> None:
    """A scrape of the metrics port shows leadership, engines by state and the decisions made."""
    port = free_port()
    process = services.start("scheduler", bus.settings, scheduler_id="s1", metrics_port=port)
    await process.up(bus)
    around.engine("e1")
    await around.ready("s1")
    await around.gateway.submit("s1", "r1", model="unknown")

    def scrape() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    text = ""

    async def shows_the_engine() -> bool:
        nonlocal text
        text = await asyncio.to_thread(scrape)
        return 'sagellm_scheduler_engines{state="ready"} 1.0' in text

    await eventually_async(shows_the_engine)
    assert "sagellm_scheduler_is_leader 1.0" in text
    assert "sagellm_scheduler_queue_length 0.0" in text
    assert 'sagellm_scheduler_decisions_total{queue_policy="slo_aware",router="predictive"}' in text
    assert 'sagellm_scheduler_rejected_total{code="not_found"}' in text
    assert "sagellm_scheduler_queue_time_seconds_count" in text
    assert "sagellm_scheduler_decision_time_seconds_count" in text


async def test_a_scheduler_without_bus_ends_with_a_sentence(services: Services, bus_settings: BusSettings) -> None:
    """With no server to reach the process ends with exit code 1 and says what to do."""
    nowhere = bus_settings.model_copy(update={"nats_url": "nats://127.0.0.1:1"})
    process = services.start("scheduler", nowhere, connect_timeout_s=1)
    assert await process.wait() == 1
    assert "no NATS server answers at nats://127.0.0.1:1" in process.log_text()


async def test_a_wrong_setting_ends_the_start_with_a_sentence(services: Services, bus_settings: BusSettings) -> None:
    """An unknown queue policy in the environment stops the start, naming the known ones."""
    process = services.start("scheduler", bus_settings, queue_policy="quickest")
    assert await process.wait() == 2
    assert "SAGELLM_QUEUE_POLICY" in process.log_text()
    assert "known are adaptive, cost_optimized, fair, fifo" in process.log_text()


async def test_sigterm_ends_it_in_order(scheduler: ServiceProcess, around: Surroundings) -> None:
    """A terminated scheduler gives its lease back and ends with exit code 0."""
    around.engine("e1")
    await around.ready("s1")
    scheduler.terminate()
    assert await scheduler.wait() == 0, scheduler.log_text()


async def test_a_standby_says_that_it_is_not_the_leader(
    scheduler: ServiceProcess, around: Surroundings, services: Services, bus: Bus, bus_settings: BusSettings
) -> None:
    """A submit to a scheduler that does not lead is rejected as unavailable, to be tried again soon."""
    around.engine("e1")
    await around.ready("s1")
    standby = services.start("scheduler", bus_settings, scheduler_id="s2")
    await standby.up(bus)
    reply = await around.gateway.submit("s2", "r1")
    assert reply.error is not None
    assert error_from_dict(reply.error).code == "unavailable"
