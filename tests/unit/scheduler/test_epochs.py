"""Idempotent submits, epochs, and what happens to requests that end."""

from support.scheduling import Driver


def test_the_same_epoch_twice_gives_the_same_assignment_again() -> None:
    """A duplicate submit makes no second decision; the assignment is published once more."""
    driver = Driver.leading()
    driver.engine("e1")
    driver.engine("e2")
    driver.submit("r1")
    driver.submit("r1")
    first, second = driver.assignments
    assert first == second
    assert driver.reserved() == 1
    assert len(driver.records) == 1


def test_the_same_epoch_twice_in_the_queue_is_queued_once() -> None:
    """A duplicate of a waiting request does not take a second place."""
    driver = Driver.leading()
    driver.engine("e1", max_num_seqs=1)
    driver.submit("runs")
    driver.submit("waits")
    driver.submit("waits")
    assert len(driver.core.dispatcher.queues) == 1
    driver.report("e1", running=0, last_assignment=1)
    assert driver.order == ["runs", "waits"]


def test_a_higher_epoch_takes_the_place_of_the_lower_and_frees_its_load() -> None:
    """Epoch 1 of a request is placed anew, away from the engine that failed, and only its load is reserved."""
    driver = Driver.leading()
    driver.engine("e1")
    driver.engine("e2")
    driver.submit("r1")
    failed = driver.assignments[0].engine_id
    driver.submit("r1", epoch=1, failed_engines=(failed,))
    assert driver.assignments[1].epoch == 1
    assert driver.assignments[1].engine_id != failed
    assert driver.reserved() == 1


def test_the_record_of_a_request_holds_the_decisions_of_all_its_epochs() -> None:
    """After a second placement the record tells both, in order, and the outcome belongs to all of them."""
    driver = Driver.leading()
    driver.engine("e1")
    driver.engine("e2")
    driver.submit("r1")
    failed = driver.assignments[0].engine_id
    driver.submit("r1", epoch=1, failed_engines=(failed,))
    driver.end("r1", epoch=1)
    record = driver.records[-1].record
    assert [decision.epoch for decision in record.decisions] == [0, 1]
    assert record.decisions[0].chosen == failed
    assert record.outcome == "finished"


def test_an_older_epoch_is_dropped_and_counted() -> None:
    """A submit that a newer epoch has overtaken changes nothing."""
    driver = Driver.leading()
    driver.engine("e1")
    driver.submit("r1", epoch=2)
    reply = driver.submit("r1", epoch=1)
    assert reply.status == "rejected"
    assert reply.error is not None
    assert reply.error["code"] == "cancelled"
    assert len(driver.assignments) == 1
    assert driver.core.counts["submit_of_older_epoch"] == 1


def test_a_failed_engine_is_chosen_only_if_nothing_else_is_left() -> None:
    """With all other engines gone the engine that failed is tried again, and the record says so."""
    driver = Driver.leading()
    driver.engine("e1")
    driver.submit("r1", epoch=1, failed_engines=("e1",))
    assert driver.assignments[0].engine_id == "e1"
    assert "failed this request before" in driver.records[0].record.decisions[0].reason


def test_a_busy_engine_is_waited_for_rather_than_one_that_failed() -> None:
    """A ready engine without room is worth waiting for when the only one with room has failed the request."""
    driver = Driver.leading()
    driver.engine("bad")
    driver.engine("good", max_num_seqs=1)
    driver.report("good", running=1)
    driver.submit("r1", epoch=1, failed_engines=("bad",))
    assert driver.assignments == []
    driver.report("good", running=0)
    assert [a.engine_id for a in driver.assignments] == ["good"]


def test_a_request_that_ends_frees_its_load_and_completes_its_record() -> None:
    """The end event closes the request; the record carries the outcome and the measured figures."""
    driver = Driver.leading()
    driver.engine("e1")
    driver.submit("r1")
    driver.end("r1", ttft_ms=12.0, e2e_ms=50.0, completion_tokens=7)
    assert driver.reserved() == 0
    assert len(driver.core.dispatcher.book) == 0
    record = driver.records[-1].record
    assert (record.outcome, record.ttft_ms, record.completion_tokens) == ("finished", 12.0, 7)
    assert [decision.chosen for decision in record.decisions] == ["e1"]


def test_a_cancelled_request_leaves_the_queue() -> None:
    """A request cancelled while it waits is never assigned."""
    driver = Driver.leading()
    driver.engine("e1", max_num_seqs=1)
    driver.submit("runs")
    driver.submit("gone")
    driver.submit("stays")
    driver.end("gone", "cancelled")
    driver.report("e1", running=0, last_assignment=1)
    assert driver.order == ["runs", "stays"]


def test_a_duplicate_after_the_end_does_not_run_again() -> None:
    """A late copy of a submit whose request has ended is dropped and counted, even if the end came first."""
    driver = Driver.leading()
    driver.engine("e1")
    driver.end("r1")
    assert driver.submit("r1").status == "rejected"
    assert driver.assignments == []
    assert driver.core.counts["submit_after_end"] == 1


def test_a_duplicate_of_a_rejected_request_gets_the_same_error() -> None:
    """After a late reject a copy of the submit is answered with the reason of the reject."""
    driver = Driver.leading(max_queue_time_s=1)
    driver.engine("e1", max_num_seqs=1)
    driver.report("e1", running=1)
    driver.submit("r1")
    driver.wait(1.1, alive=("e1",))
    reply = driver.submit("r1")
    assert reply.error is not None
    assert reply.error["code"] == "resource_exhausted"


def test_two_gateways_with_one_id_do_not_mix() -> None:
    """A second gateway's request of the same id is refused; the first goes on."""
    driver = Driver.leading()
    driver.engine("e1")
    driver.submit("r1", gateway_id="g1")
    reply = driver.submit("r1", gateway_id="g2", epoch=1)
    assert reply.error is not None
    assert reply.error["code"] == "invalid_argument"
    assert len(driver.core.dispatcher.book) == 1
