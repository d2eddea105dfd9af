"""Load accounting: reservations, acknowledgements, stale metrics, shallow queues."""

from collections import Counter

from support.scheduling import EPOCH, Driver


def test_a_burst_on_one_snapshot_is_spread_over_all_engines() -> None:
    """Load is reserved as it is decided, so a burst between two reports does not herd to one engine."""
    driver = Driver.leading()
    for name in "abcd":
        driver.engine(name, max_num_seqs=8)
    for number in range(16):
        driver.submit(f"r{number}")
    assert Counter(a.engine_id for a in driver.assignments) == {"a": 4, "b": 4, "c": 4, "d": 4}


def test_engines_are_kept_shallowly_queued() -> None:
    """No more requests go to an engine than it has sequence slots; the rest waits where the policy can order it."""
    driver = Driver.leading()
    driver.engine("e1", max_num_seqs=4)
    for number in range(10):
        driver.submit(f"r{number}")
    assert len(driver.assignments) == 4
    assert len(driver.core.dispatcher.queues) == 6


def test_what_the_engine_has_seen_is_counted_once() -> None:
    """A report that names assignment 2 as seen counts 1 and 2 in its gauges; only number 3 stays reserved."""
    driver = Driver.leading()
    driver.engine("e1", max_num_seqs=4)
    for number in range(3):
        driver.submit(f"r{number}")
    driver.report("e1", running=2, last_assignment=2)
    engine = driver.core.fleet.get("e1")
    assert engine is not None
    assert engine.seqs() == 3
    assert engine.reservations.unseen_seqs == 1


def test_a_report_under_an_older_leader_acknowledges_nothing_of_ours() -> None:
    """Numbers restart with the leader epoch: a high number of the old leader says nothing about our assignments."""
    driver = Driver.leading()
    driver.engine("e1", max_num_seqs=4)
    driver.submit("r1")
    driver.report("e1", running=0, leader_epoch=(EPOCH[0], EPOCH[1] - 1), last_assignment=500)
    engine = driver.core.fleet.get("e1")
    assert engine is not None
    assert engine.seqs() == 1


def test_an_unacknowledged_assignment_expires_after_the_dispatch_timeout() -> None:
    """An assignment that never reached the engine gives its slot back, and the next request goes out."""
    driver = Driver.leading(dispatch_timeout_s=2)
    driver.engine("e1", max_num_seqs=1)
    driver.submit("lost")
    driver.submit("next")
    driver.wait(1.9, alive=("e1",))
    assert driver.order == ["lost"]
    driver.wait(0.2, alive=("e1",))
    assert driver.order == ["lost", "next"]


def test_an_expired_assignment_is_reserved_again_when_it_is_repeated() -> None:
    """A duplicate submit after the expiry gets the same assignment, and its load counts again."""
    driver = Driver.leading(dispatch_timeout_s=2)
    driver.engine("e1")
    driver.submit("r1")
    driver.wait(2.1, alive=("e1",))
    assert driver.reserved() == 0
    driver.submit("r1")
    assert driver.assignments[0] == driver.assignments[1]
    assert driver.reserved() == 1


def test_stale_metrics_degrade_to_what_is_in_flight_and_never_stop_dispatch() -> None:
    """Without fresh reports the open requests that we assigned are the load: slots refill as requests end."""
    driver = Driver.leading(engine_timeout_s=60)
    driver.engine("e1", max_num_seqs=2)
    driver.submit("r1")
    driver.submit("r2")
    driver.submit("r3")
    driver.report("e1", running=2, last_assignment=2)
    driver.wait(5)
    assert driver.order == ["r1", "r2"]
    driver.end("r1")
    assert driver.order == ["r1", "r2", "r3"]
    driver.end("r2")
    driver.submit("r4")
    assert driver.order == ["r1", "r2", "r3", "r4"]


def test_stale_full_gauges_do_not_halt_an_engine_whose_requests_have_ended() -> None:
    """Gauges that said "full" before the reports stopped do not block dispatch for ever."""
    driver = Driver.leading(engine_timeout_s=60)
    driver.engine("e1", max_num_seqs=2)
    driver.report("e1", running=2)
    driver.submit("r1")
    assert driver.order == []
    driver.wait(1.2)
    assert driver.order == ["r1"]


def test_kv_memory_is_estimated_from_prompt_and_expected_answer() -> None:
    """Requests are held back when the prompts and expected answers of those in flight would overfill KV memory."""
    driver = Driver.leading()
    driver.engine("e1", num_pages=64, page_size=16, max_num_seqs=64)
    for number in range(10):
        driver.submit(f"r{number}", prompt_tokens=200, max_tokens=56)
    assert len(driver.assignments) == 4


def test_the_expected_answer_is_learned_from_the_answers_seen() -> None:
    """When answers turn out short, more requests fit at once than their max_tokens would allow."""
    driver = Driver.leading()
    driver.engine("e1", num_pages=64, page_size=16, max_num_seqs=64)
    for number in range(100):
        driver.submit(f"short{number}", prompt_tokens=6, max_tokens=1000)
        driver.end(f"short{number}", completion_tokens=10)
        driver.report("e1", last_assignment=number + 1)
    before = len(driver.assignments)
    for number in range(40):
        driver.submit(f"r{number}", prompt_tokens=6, max_tokens=1000)
    assert len(driver.assignments) - before > 30


def test_an_idle_engine_takes_any_request_that_it_can_hold() -> None:
    """An estimate above the whole KV memory does not keep a request from an engine that has nothing else to do."""
    driver = Driver.leading()
    driver.engine("e1", num_pages=64, page_size=16)
    driver.submit("r1", prompt_tokens=1000, max_tokens=1000)
    assert driver.order == ["r1"]


def test_a_report_that_was_overtaken_is_ignored() -> None:
    """An older report that arrives late does not undo a newer one; neither does one of another incarnation."""
    driver = Driver.leading()
    driver.engine("e1", max_num_seqs=2)
    newest = driver.core.fleet.get("e1")
    assert newest is not None
    driver.report("e1", running=2)
    last = newest.report
    driver.numbers = iter([0])  # type: ignore[assignment]  # the next report carries a number of the past
    driver.report("e1", running=0)
    assert newest.report is last
    assert driver.core.fleet.ignored_reports == 1


def test_reservations_return_to_zero_when_all_requests_have_ended() -> None:
    """Whatever was promised to engines is given back."""
    driver = Driver.leading()
    driver.engine("a", max_num_seqs=8)
    driver.engine("b", max_num_seqs=8)
    for number in range(16):
        driver.submit(f"r{number}", num_choices=number % 3)
    driver.report("a", running=4, last_assignment=4)
    for number in range(16):
        driver.end(f"r{number}", "failed")
    assert driver.reserved() == 0
    assert all(e.reservations.tokens == e.reservations.unseen_seqs == 0 for e in driver.core.fleet)


def test_an_engine_keeps_the_least_promise_of_what_runs_there() -> None:
    """The scheduler knows it before the engine reports it, and that it ends with the answer."""
    driver = Driver.leading()
    driver.engine("e1", max_num_seqs=8)
    engine = driver.core.fleet.get("e1")
    assert engine is not None
    assert engine.limit_s() == 0.0
    driver.submit("free")
    assert engine.limit_s() == 0.0
    for name, itl_ms in (("a", 40.0), ("b", 20.0), ("c", 20.0)):
        driver.submit(name, slo={"itl_ms": itl_ms})
    assert engine.limit_s() == 0.020
    driver.end("b")
    assert engine.limit_s() == 0.020
    driver.end("c")
    assert engine.limit_s() == 0.040
    driver.report("e1", running=2, itl_limit_s=0.030, last_assignment=4)
    assert engine.limit_s() == 0.030
    driver.report("e1", running=2, last_assignment=4)
    driver.end("a")
    assert engine.limit_s() == 0.0


def test_a_promise_that_no_step_can_keep_hides_no_other() -> None:
    """A step takes 5 ms at least: an engine does not keep to a tenth of one, and prompts are expected accordingly."""
    driver = Driver.leading(admission_slack=None)
    driver.engine("e1", max_num_seqs=8)
    engine = driver.core.fleet.get("e1")
    assert engine is not None
    driver.submit("absurd", slo={"itl_ms": 0.1})
    assert engine.limit_s() == 0.0
    driver.submit("b", slo={"itl_ms": 20.0})
    assert engine.limit_s() == 0.020
