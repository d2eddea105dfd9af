"""Gateways, assignments, memory and reports of an engine, in virtual time."""

from dataclasses import replace

from sagellm_common.contracts.reports import Progress
from sagellm_engine.core.types import EngineGauges, StepReport
from sagellm_engine.service.assignments import Assignments
from sagellm_engine.service.gateways import Gateways
from sagellm_engine.service.remembered import Remembered
from sagellm_engine.service.reports import MAX_PROGRESS, MAX_SAMPLES, Reporter

GAUGES = EngineGauges(
    pages_total=10, pages_free=4, pages_cached=1, waiting=2, running=3, waiting_tokens=20, running_tokens=30
)


def _reporter() -> Reporter:
    return Reporter("e1", "i1", 0.5, GAUGES)


def test_a_silent_gateway_is_noticed_only_while_the_bus_is_up() -> None:
    """A gateway is lost after a full timeout of silence during which the own connection stood."""
    gateways = Gateways(5.0)
    gateways.seen("a", 0.0)
    gateways.seen("b", 3.0)
    assert gateways.silent(4.9, 100.0) == []
    assert gateways.silent(6.0, 100.0) == ["a"]
    assert gateways.silent(6.0, 4.9) == []
    assert gateways.silent(9.0, 5.0) == ["a", "b"]
    gateways.forget("a")
    assert gateways.silent(9.0, 5.0) == ["b"]
    gateways.seen("a", 9.0)
    assert len(gateways) == 2


def test_numbers_of_the_newest_leader_count() -> None:
    """The highest number is kept per leader epoch; an older leader's assignments say nothing."""
    seen = Assignments()
    for epoch, number in (((1, 5), 3), ((1, 5), 2), ((1, 4), 90)):
        seen.seen(epoch, number)
    assert (seen.leader_epoch, seen.last_number) == ((1, 5), 3)
    seen.seen((2, 1), 1)
    assert (seen.leader_epoch, seen.last_number) == ((2, 1), 1)


def test_what_is_remembered_is_forgotten_by_age_and_by_number() -> None:
    """An entry lasts keep_s from its last setting, and the oldest goes when there are too many."""
    memory: Remembered[str, int] = Remembered(10.0, max_size=2)
    memory.set("a", 1, 0.0)
    memory.set("b", 2, 1.0)
    memory.set("a", 3, 2.0)
    assert [memory.get(key, 0, 10.9) for key in "ab"] == [3, 2]
    assert [memory.get(key, 0, 11.0) for key in "ab"] == [3, 0]
    memory.set("c", 4, 3.0)
    assert [memory.get(key, 0, 4.0) for key in "abc"] == [3, 0, 4]
    memory.set("d", 5, 50.0)
    assert len(memory) == 1


def test_reports_are_due_by_heartbeat_and_while_stepping() -> None:
    """Idle: every heartbeat_s. Stepping: at most every 0.1 s."""
    reporter = _reporter()
    assert reporter.heartbeat_due(0.0)
    reporter.heartbeat(0.0, "ready", ())
    assert not reporter.due(0.49)
    assert reporter.due(0.5)
    reporter.add_step(StepReport(duration_s=0.01, rows=1), 0.05)
    assert not reporter.due(0.09)
    assert reporter.due(0.1)
    assert not reporter.heartbeat_due(0.1)
    assert len(reporter.report(0.1, "ready").steps) == 1
    assert not reporter.due(0.4)


def test_a_report_shows_gauges_and_the_share_of_time_in_steps() -> None:
    """`busy` is the time spent in steps during the last second."""
    reporter = _reporter()
    for number in range(8):
        reporter.add_step(StepReport(duration_s=0.05, rows=1), number * 0.1)
    assert abs(reporter.report(0.8, "ready").gauges.busy - 0.4) < 1e-9
    assert abs(reporter.report(1.45, "ready").gauges.busy - 0.15) < 1e-9
    reporter.gauges = replace(GAUGES, running=9)
    final = reporter.report(9.0, "draining")
    assert (final.gauges.busy, final.gauges.running, final.state, final.number) == (0.0, 9, "draining", 3)


def test_samples_are_limited_while_nobody_can_be_told() -> None:
    """With the bus down the oldest samples are dropped."""
    reporter = _reporter()
    for number in range(MAX_SAMPLES + 5):
        reporter.add_step(StepReport(rows=number), number * 0.001)
    steps = reporter.report(2.0, "ready").steps
    assert (len(steps), steps[0].rows) == (MAX_SAMPLES, 5)


def test_much_progress_comes_in_several_reports() -> None:
    """The progress of very many requests is divided, none is left out or told twice."""
    progress = [(f"gw{n % 2}", Progress(f"r{n}", 0, 0, n, False)) for n in range(MAX_PROGRESS * 2 + 1)]
    reports = _reporter().heartbeat(0.0, "ready", progress)
    assert [report.number for report in reports] == [1, 2, 3]
    told = [entry.next_index for report in reports for found in report.progress.values() for entry in found]
    assert sorted(told) == list(range(MAX_PROGRESS * 2 + 1))
