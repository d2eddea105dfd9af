"""Engines and gateways that fall silent, lost connections, and a scheduler that was itself asleep."""

import pytest

from sagellm_common.contracts.scheduling import OpenRequest
from sagellm_scheduler.core import events
from support.scheduling import Driver, submit


def lost_engines(driver: Driver) -> list[str | None]:
    return [notice.engine_id for notice in driver.notices if notice.kind == "engine_lost"]


def test_a_silent_engine_is_lost_after_one_timeout_and_every_gateway_is_told() -> None:
    """Two seconds without a report mean a notice to each gateway, with the incarnation that is lost."""
    driver = Driver.leading(engine_timeout_s=2)
    driver.heartbeat("g1")
    driver.heartbeat("g2")
    driver.engine("e1")
    driver.wait(1.9)
    assert lost_engines(driver) == []
    driver.wait(0.2)
    assert lost_engines(driver) == ["e1", "e1"]
    assert {notice.incarnation for notice in driver.notices} == {"i1"}


def test_a_lost_engine_that_reports_again_gets_requests_again() -> None:
    """Loss is no ban: the same incarnation is used again once it is heard."""
    driver = Driver.leading()
    driver.engine("e1")
    driver.wait(2.1)
    driver.submit("r1")
    assert driver.order == []
    driver.report("e1")
    assert driver.order == ["r1"]


def test_while_the_bus_is_down_nobody_is_lost() -> None:
    """Silence counts only while our own connection stood for a whole timeout."""
    driver = Driver.leading(engine_timeout_s=2)
    driver.heartbeat("g1")
    driver.engine("e1")
    driver.feed(events.BusDown())
    driver.wait(60)
    assert lost_engines(driver) == []
    driver.feed(events.BusUp())
    driver.wait(1.9)
    assert lost_engines(driver) == []
    driver.wait(0.2)
    assert lost_engines(driver) == ["e1"]


def test_a_scheduler_that_was_asleep_blames_nobody() -> None:
    """After a gap in its own ticks, as on a suspended machine, the scheduler waits a whole timeout anew."""
    driver = Driver.leading(engine_timeout_s=2)
    driver.heartbeat("g1")
    driver.engine("e1")
    driver.wait(0.5)
    driver.now += 30
    driver.feed(events.Tick())
    driver.wait(1.5)
    assert lost_engines(driver) == []
    driver.wait(0.6)
    assert lost_engines(driver) == ["e1"]


def test_a_new_incarnation_is_a_loss_of_the_old_one() -> None:
    """An engine that restarts faster than its timeout has still lost what it was running."""
    driver = Driver.leading()
    driver.heartbeat("g1")
    driver.engine("e1", incarnation="old")
    driver.submit("r1")
    driver.engine("e1", incarnation="new")
    assert [(n.engine_id, n.incarnation) for n in driver.notices] == [("e1", "old")]
    driver.submit("r1", epoch=1)
    assert driver.assignments[-1].incarnation == "new"
    assert driver.reserved() == 1


def test_a_removed_registration_stops_new_requests_and_is_no_loss_yet() -> None:
    """An engine whose registration ran out while it reports is left in peace, and gets nothing new."""
    driver = Driver.leading()
    driver.heartbeat("g1")
    driver.engine("e1")
    driver.feed(events.EngineGone("e1"))
    driver.wait(10, alive=("e1",))
    driver.submit("r1")
    assert lost_engines(driver) == []
    assert driver.order == []
    driver.engine("e1")
    assert driver.order == ["r1"]


def test_a_model_stays_known_for_a_while_after_its_last_engine() -> None:
    """A restart of the only engine makes requests wait, not fail as for an unknown model."""
    driver = Driver.leading(remember_engine_s=60)
    driver.engine("e1")
    driver.feed(events.EngineGone("e1"))
    driver.wait(30)
    assert driver.submit("r1").status == "queued"
    driver.wait(40)
    assert driver.submit("r2").status == "rejected"


def test_the_load_of_a_lost_engine_is_forgotten() -> None:
    """Reservations on a lost engine do not remain when it comes back."""
    driver = Driver.leading()
    driver.engine("e1")
    driver.submit("r1")
    driver.wait(2.1)
    assert driver.reserved() == 0


def test_a_silent_gateway_takes_its_requests_with_it() -> None:
    """After five seconds without a heartbeat the requests of a gateway free their load and leave the queue."""
    driver = Driver.leading(engine_timeout_s=60, dispatch_timeout_s=60)
    driver.heartbeat("g1")
    driver.heartbeat("g2")
    driver.engine("e1", max_num_seqs=1)
    driver.submit("runs", gateway_id="g1")
    driver.submit("waits", gateway_id="g1")
    driver.submit("other", gateway_id="g2")
    for _ in range(6):
        driver.wait(1)
        driver.heartbeat("g2")
    assert driver.order == ["runs", "other"]


def test_a_restarted_gateway_loses_what_it_had_and_keeps_what_it_submits() -> None:
    """A new incarnation drops the requests of the former one, not those that overtook its first heartbeat."""
    driver = Driver.leading()
    driver.engine("e1", max_num_seqs=8)
    driver.heartbeat("g1", "old")
    driver.submit("old")
    driver.now += 0.5
    driver.heartbeat("g1", "old")
    driver.now += 0.5
    driver.submit("new")
    driver.heartbeat("g1", "new")
    assert [request.request_id for request in driver.core.dispatcher.book] == ["new"]


def test_a_lost_end_event_does_not_leak() -> None:
    """Every ten seconds gateways are asked about requests that have been open for long; what they lack is closed."""
    driver = Driver.leading(engine_timeout_s=60, gateway_timeout_s=60)
    driver.heartbeat("g1")
    driver.feed(events.OpenLearnt("g1", (), driver.now))
    driver.engine("e1")
    driver.submit("ended-unheard")
    driver.submit("runs")
    driver.report("e1", last_assignment=2, running=2)
    asked = len(driver.asked)
    driver.wait(12, alive=("e1",))
    assert driver.asked[asked:] == ["g1"]
    answer = (OpenRequest(submit=submit("runs"), assignment=driver.assignments[1]),)
    driver.feed(events.OpenLearnt("g1", answer, driver.now))
    assert [request.request_id for request in driver.core.dispatcher.book] == ["runs"]
    assert driver.reserved() == 1
    assert driver.core.counts["request_end_unheard"] == 1


def test_a_young_request_is_not_closed_by_an_older_list() -> None:
    """A list of open requests says nothing about a request that was submitted after it was asked for."""
    driver = Driver.leading()
    driver.heartbeat("g1")
    driver.engine("e1")
    asked_at = driver.now
    driver.submit("young")
    driver.feed(events.OpenLearnt("g1", (), asked_at))
    assert len(driver.core.dispatcher.book) == 1


@pytest.mark.parametrize("seconds", [0.1, 5.0])
def test_a_report_of_an_unknown_engine_is_ignored(seconds: float) -> None:
    """Reports that arrive before their registration, or after the engine was forgotten, do no harm."""
    driver = Driver.leading()
    engine = driver.engine("e1")
    driver.core.fleet.unregister("e1")
    driver.engines["e2"] = engine.model_copy(update={"engine_id": "e2"})
    driver.report("e2")
    driver.wait(seconds)
    assert driver.core.fleet.get("e2") is None
    assert driver.core.fleet.ignored_reports == 1
