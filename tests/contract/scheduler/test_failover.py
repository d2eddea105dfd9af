"""Two schedulers, a killed leader, a restarted server: what survives."""

import shutil
import time
from collections.abc import AsyncIterator
from functools import partial

import nats.errors
import nats.js.errors
import pytest

from sagellm_common.bus import Bus
from sagellm_common.codec import decode
from sagellm_common.contracts.policy import Policy, PolicyChange, PolicyReply
from sagellm_common.contracts.scheduling import OpenRequest
from sagellm_common.errors import SageError
from sagellm_common.nats_server import NatsServer
from sagellm_common.settings import BusSettings
from support.processes import Services
from support.scheduler_peers import Surroundings
from support.scheduling import submit
from support.wait import eventually, eventually_async

TAKEOVER_S = 3.0


@pytest.fixture
async def around(bus: Bus) -> AsyncIterator[Surroundings]:
    """A gateway that the test plays, and whatever engines it adds."""
    async with Surroundings.on(bus) as surroundings:
        yield surroundings


async def start_two(services: Services, around: Surroundings, settings: BusSettings, **more: object) -> str:
    """Start two schedulers; return the id of the one that leads."""
    processes = [services.start("scheduler", settings, scheduler_id=name, **more) for name in ("s1", "s2")]
    for process in processes:
        await process.up(around.bus)
    return await around.leader()


def kill(services: Services, scheduler_id: str) -> None:
    """End a scheduler as a crash would."""
    next(p for p in services.processes if p.env["SAGELLM_SCHEDULER_ID"] == scheduler_id).kill()


async def test_a_killed_leader_is_replaced_within_three_seconds(
    services: Services, around: Surroundings, bus_settings: BusSettings
) -> None:
    """The standby takes over, numbers under a newer leader epoch, and answers for decisions of the old leader."""
    around.engine("e1", max_num_seqs=64)
    first = await start_two(services, around, bus_settings)
    await around.ready(first)
    await around.gateway.submit(first, "before")
    before = await around.gateway.assignment("before")
    kill(services, first)
    killed_at = time.monotonic()
    second = await around.leader(other_than=first)
    assert time.monotonic() - killed_at < TAKEOVER_S
    await around.ready(second)
    await around.gateway.submit(second, "after")
    after = await around.gateway.assignment("after")
    assert after.leader_epoch > before.leader_epoch
    assert (await around.gateway.explain("before")).decisions[0].scheduler_id == first
    assert (await around.gateway.explain("after")).decisions[0].scheduler_id == second


async def test_a_record_of_two_engines_is_completed_by_the_next_leader(
    services: Services, around: Surroundings, bus_settings: BusSettings
) -> None:
    """Who prefills, the predictions and their errors, the transfer and the cause are there, whoever saw the end."""
    steps = tuple((0.005 + 0.0002 * prefill, prefill + 1, prefill, 1, 20, 0) for prefill in (0, 64, 512, 2000))
    for name, role in (("p", "prefill"), ("d", "decode")):
        around.engine(name, role=role, handoff="x", kv_bytes_per_token=1000, benchmark=steps)
    first = await start_two(services, around, bus_settings, pd_policy="threshold")
    await around.ready(first)
    await around.gateway.submit(first, "long", prompt_tokens=1000, slo={"ttft_ms": 300.0})
    assigned = await around.gateway.assignment("long")
    around.gateway.open = [
        OpenRequest(submit=submit("long", prompt_tokens=1000, slo={"ttft_ms": 300.0}), assignment=assigned)
    ]
    kill(services, first)
    await around.ready(await around.leader(other_than=first))
    await around.gateway.end("long", ttft_ms=350.0, itl_mean_ms=10.0, transfer_ms=5.0, completion_tokens=10)

    async def is_complete() -> bool:
        return (await around.gateway.explain("long")).outcome == "finished"

    await eventually_async(is_complete)
    record = await around.gateway.explain("long")
    (decision,) = record.decisions
    assert (decision.chosen, decision.prefill, decision.scheduler_id) == ("d", "p", first)
    assert decision.predicted_transfer_ms is not None
    assert (record.transfer_ms, record.missed, record.cause) == (5.0, "ttft", "prefill")
    assert record.ttft_error == pytest.approx(1 - (decision.predicted_ttft_ms or 0.0) / 350.0, abs=1e-3)
    assert record.itl_error == pytest.approx(1 - (decision.predicted_itl_ms or 0.0) / 10.0, abs=1e-3)


async def test_a_new_leader_learns_the_load_from_the_gateways(
    services: Services, around: Surroundings, bus_settings: BusSettings
) -> None:
    """What the old leader had assigned and no report shows yet counts as load; what was queued is assigned once."""
    around.engine("e1", max_num_seqs=2)
    first = await start_two(services, around, bus_settings)
    await around.ready(first)
    for name in ("a", "b", "c"):
        await around.gateway.submit(first, name)
    assigned = [await around.gateway.assignment(name) for name in ("a", "b")]
    around.gateway.open = [
        OpenRequest(submit=submit("a"), assignment=assigned[0]),
        OpenRequest(submit=submit("b"), assignment=assigned[1]),
        OpenRequest(submit=submit("c")),
    ]
    kill(services, first)
    second = await around.leader(other_than=first)
    await eventually(lambda: second in around.gateway.asked_by, what="the question for open requests")
    await eventually_async(lambda: is_known(around, second, "a"), what="that the new leader knows the request")
    assert around.gateway.assigned("c") == []
    await around.gateway.end("a")
    assignment = await around.gateway.assignment("c")
    assert assignment.leader_epoch > assigned[0].leader_epoch
    assert len(around.gateway.assigned("c")) == 1


async def is_known(around: Surroundings, scheduler_id: str, request_id: str) -> bool:
    """Whether a scheduler repeats an assignment that it did not make itself."""
    before = len(around.gateway.assigned(request_id))
    await around.gateway.submit(scheduler_id, request_id, epoch=0)
    return len(around.gateway.assigned(request_id)) > before


async def test_a_leader_that_is_stopped_hands_over_at_once(
    services: Services, around: Surroundings, bus_settings: BusSettings
) -> None:
    """A terminated leader gives the lease back, so that the standby need not wait for it to run out."""
    around.engine("e1")
    first = await start_two(services, around, bus_settings)
    await around.ready(first)
    leader = next(p for p in services.processes if p.env["SAGELLM_SCHEDULER_ID"] == first)
    leader.terminate()
    assert await leader.wait() == 0, leader.log_text()
    stopped_at = time.monotonic()
    await around.leader(other_than=first)
    assert time.monotonic() - stopped_at < 1.0


async def test_a_restarted_nats_server_costs_no_engine(own_nats_server: NatsServer, services: Services) -> None:
    """While the server is away nobody is declared lost; afterwards requests are assigned again."""
    settings = BusSettings(nats_url=own_nats_server.url, deployment="restart")
    bus = await Bus.connect(settings, "test")
    process = services.start("scheduler", settings, scheduler_id="s1", engine_timeout_s=1)
    await process.up(bus)
    async with Surroundings.on(bus) as around:
        around.engine("e1")
        around.engine("e2")
        await around.ready("s1", engines=2)
        own_nats_server.stop()
        await eventually(lambda: not bus.is_connected)
        own_nats_server.start()
        await eventually(lambda: bus.is_connected)
        await around.ready("s1", engines=1)
        await around.gateway.submit("s1", "after")
        await around.gateway.assignment("after")
        assert [notice for notice in around.gateway.notices if notice.kind == "engine_lost"] == []
    await bus.close()


async def test_a_server_that_lost_its_storage_has_a_leader_again(
    own_nats_server: NatsServer, services: Services
) -> None:
    """When the lease's bucket is gone with the server's disk a scheduler makes it anew and leads again."""
    settings = BusSettings(nats_url=own_nats_server.url, deployment="lost")
    bus = await Bus.connect(settings, "test")
    process = services.start("scheduler", settings, scheduler_id="s1")
    await process.up(bus)
    await eventually_async(lambda: _has_leader(bus), 10)
    own_nats_server.kill()
    shutil.rmtree(own_nats_server.store)
    own_nats_server.start()
    await eventually(lambda: bus.is_connected and bus.reconnects == 1, what="the server again")
    await eventually_async(lambda: _has_leader(bus), 20)
    assert process.log_text().count("leadership_gained") == 2
    await bus.close()


async def test_a_server_that_lost_its_storage_gets_records_and_policy_again(
    own_nats_server: NatsServer, services: Services
) -> None:
    """Decisions of before are in the stream again, from the leader's memory, those of after too; the policy stays."""
    settings = BusSettings(nats_url=own_nats_server.url, deployment="lost")
    bus = await Bus.connect(settings, "test")
    process = services.start("scheduler", settings, scheduler_id="s1")
    await process.up(bus)
    async with Surroundings.on(bus) as around:
        around.engine("e1")
        await around.ready("s1")
        await _set_queue(bus, "priority")
        await around.gateway.submit("s1", "before")
        await around.gateway.assignment("before")
        await eventually_async(lambda: _is_stored(bus, "before"), what="the record of before")
        own_nats_server.kill()
        shutil.rmtree(own_nats_server.store)
        own_nats_server.start()
        await eventually(lambda: bus.is_connected and bus.reconnects == 1, 20, "the server again")
        await eventually_async(lambda: _is_stored(bus, "before"), 30, "the record of before, again")
        await eventually_async(lambda: _has_policy(bus, "priority"), 30, "the policy, again")
        await around.leader()
        await around.ready("s1")
        await around.gateway.submit("s1", "after")
        await around.gateway.assignment("after")
        await eventually_async(lambda: _is_stored(bus, "after"), 20, "the record of after")
        await _set_queue(bus, "fifo")
        await eventually_async(lambda: _has_policy(bus, "fifo"), 20, "a new policy")
    await bus.close()


async def test_a_deleted_stream_of_decisions_is_made_anew(
    services: Services, around: Surroundings, bus_settings: BusSettings
) -> None:
    """When an operator deletes the stream, the next decision makes the scheduler create it, with all it remembers."""
    around.engine("e1", max_num_seqs=64)
    process = services.start("scheduler", bus_settings, scheduler_id="s1")
    await process.up(around.bus)
    await around.ready("s1")
    await around.gateway.submit("s1", "before")
    await around.gateway.assignment("before")
    await around.bus.client.jetstream().delete_stream(bus_settings.subjects.stream("decisions"))
    await around.gateway.submit("s1", "after")
    await around.gateway.assignment("after")
    for request_id in ("before", "after"):
        await eventually_async(partial(_is_stored, around.bus, request_id), 20, f"the record of {request_id}")


async def _is_stored(bus: Bus, request_id: str) -> bool:
    """Whether the stream itself has a record about a request."""
    subjects = bus.settings.subjects
    try:
        await bus.client.jetstream().get_last_msg(subjects.stream("decisions"), subjects.decision(request_id))
    except (nats.js.errors.Error, nats.errors.Error):
        return False
    return True


async def _set_queue(bus: Bus, queue: str) -> None:
    reply = await bus.request(bus.settings.subjects.policy, PolicyChange(queue=queue), PolicyReply)
    assert reply.policy.queue == queue


async def _has_policy(bus: Bus, queue: str) -> bool:
    """Whether the bucket itself names a queue policy, and the scheduler the same; nothing is created by looking."""
    try:
        bucket = await bus.client.jetstream().key_value(bus.settings.subjects.bucket("policy"))
        kept = decode(Policy, (await bucket.get("scheduler")).value or b"")
        live = await bus.request(bus.settings.subjects.policy, PolicyChange(), PolicyReply)
    except (nats.js.errors.Error, nats.errors.Error, SageError):
        return False
    return kept.queue == live.policy.queue == queue


async def _has_leader(bus: Bus) -> bool:
    """Whether somebody holds the lease; nothing is created by looking."""
    try:
        bucket = await bus.client.jetstream().key_value(bus.settings.subjects.bucket("leader"))
        return bool((await bucket.get("scheduler")).value)
    except (nats.js.errors.Error, nats.errors.Error):
        return False


async def test_stale_metrics_do_not_stop_dispatch(
    services: Services, around: Surroundings, bus_settings: BusSettings
) -> None:
    """An engine that has stopped reporting but is not lost yet goes on getting requests as earlier ones end."""
    process = services.start("scheduler", bus_settings, scheduler_id="s1", engine_timeout_s=60)
    await process.up(around.bus)
    engine = around.engine("e1", max_num_seqs=1)
    await around.ready("s1")
    engine.gauges = {"running": 1}
    await around.gateway.submit("s1", "first")
    engine.is_reporting = False
    for name in ("second", "third"):
        await around.gateway.submit("s1", name)
    await around.gateway.assignment("first")
    await around.gateway.end("first")
    await around.gateway.assignment("second")
    await around.gateway.end("second")
    await around.gateway.assignment("third")
