"""Continuous batching: who takes part in a step, and who gives way."""

import pytest

from sagellm_engine.core.types import StepReport
from support.engine import Results, collect, drain, mock_core, request, run


@pytest.mark.acceptance(116)
def test_requests_join_a_running_batch() -> None:
    """A request that comes later decodes beside those that run; eight together take hardly more steps than one."""
    core = mock_core()
    requests = [request(range(10), max_tokens=20) for _ in range(8)]
    results: Results = {}
    num_steps = 0
    for item in requests:
        core.submit(item, 0.0)
        report = collect(core, results)
        num_steps += 1
    assert report.decode_seqs == 7
    assert report.prefill_tokens == 10
    _, reports = drain(core)
    assert num_steps + len(reports) == 27


def test_budget_is_shared_by_decode_and_prefill() -> None:
    """Decoding sequences take a token each, a long prompt gets the rest in chunks, no step exceeds the budget."""
    core = mock_core(max_batch_tokens=32, max_num_seqs=8)
    results: Results = {}
    for _ in range(3):
        core.submit(request([1], max_tokens=30), 0.0)
    collect(core, results)
    core.submit(request(range(100), max_tokens=2), 0.0)
    reports = [collect(core, results) for _ in range(5)]
    assert [(r.decode_seqs, r.prefill_tokens) for r in reports] == [(3, 29), (3, 29), (3, 29), (3, 13), (4, 0)]
    assert reports[1].chunk_x_context == 29 * 58
    assert reports[0].rows == 32


def test_report_counts_contexts() -> None:
    """A step's context tokens are the lengths of the decoding sequences, the new token not counted."""
    core = mock_core()
    results: Results = {}
    core.submit(request(range(10), max_tokens=5), 0.0)
    core.submit(request(range(20), max_tokens=5), 0.0)
    assert collect(core, results).context_tokens == 0
    assert collect(core, results).context_tokens == 11 + 21


def test_no_more_than_max_num_seqs() -> None:
    """Sequences beyond the limit wait, and take the places of those that end."""
    core = mock_core(max_num_seqs=3)
    for _ in range(7):
        core.submit(request([1, 2], max_tokens=4), 0.0)
    collect(core, {})
    assert (core.gauges().running, core.gauges().waiting) == (3, 4)
    _, reports = drain(core)
    assert max(report.rows - report.prefill_tokens // 2 for report in reports) <= 3


def test_gauges_count_what_is_left_to_compute() -> None:
    """Of a prompt that waits, what is in the prefix cache needs no computing; of a running one, what has been."""
    core = mock_core(max_batch_tokens=32, max_num_seqs=2)
    core.submit(request(range(100), key="before", max_tokens=1), 0.0)
    drain(core)
    core.submit(request([7] * 90, key="runs", max_tokens=9), 0.0)
    core.step(0.0)
    for name, prompt in (("beside", [8] * 50), ("known", [*range(80), 5]), ("new", [9] * 40)):
        core.submit(request(prompt, key=name, max_tokens=9), 0.0)
    gauges = core.gauges()
    assert (gauges.waiting, gauges.prefilling) == (3, 1)
    assert gauges.waiting_tokens == 50 + 81 + 40
    assert gauges.prefill_tokens == (90 - 32) + 50 + 1 + 40


def test_smaller_priority_goes_first_then_earlier_arrival() -> None:
    """Waiting requests are admitted by priority, then by arrival."""
    core = mock_core(max_num_seqs=1)
    order = [("low", 3, 0.0), ("late", 1, 2.0), ("early", 1, 1.0), ("critical", 0, 3.0)]
    for name, priority, arrival in order:
        core.submit(request([1], key=name, priority=priority, arrival=arrival, max_tokens=2), 0.0)
    ended = []
    while core.has_work():
        ended += [output.key[0] for output in core.step(0.0).tokens if output.finish]
    assert ended == ["critical", "early", "late", "low"]


def test_least_work_gives_way() -> None:
    """When pages run out the sequence with the least computed work starts over, and nothing is lost or repeated."""
    core = mock_core(num_pages=8, max_model_len=128, prefix_cache=False)
    long, short = request(range(60), max_tokens=40), request(range(33), max_tokens=40)
    alone = [run(mock_core(), [item])[0].tokens for item in (long, short)]
    core.submit(long, 0.0)
    core.submit(short, 0.0)
    results, reports = drain(core)
    assert sum(report.preemptions for report in reports) > 0
    assert [results[item.key, 0].tokens for item in (long, short)] == alone
    first_end = next(i for i, r in enumerate(reports) if r.preemptions)
    assert reports[first_end].decode_seqs == 1


def test_less_urgent_gives_way_first() -> None:
    """Of two sequences the less urgent one gives way, even with more work done."""
    core = mock_core(num_pages=8, max_model_len=128, prefix_cache=False)
    core.submit(request(range(60), key="patient", priority=3, max_tokens=40), 0.0)
    core.submit(request(range(33), key="urgent", priority=0, max_tokens=40), 0.0)
    ended = []
    while core.has_work():
        ended += [output.key[0] for output in core.step(0.0).tokens if output.finish]
    assert ended == ["urgent", "patient"]
    core.check_invariants()


def test_any_crowd_comes_to_its_end() -> None:
    """Far more work than pages, with preemption all along, ends with every token delivered once."""
    core = mock_core(num_pages=8, max_model_len=128, max_batch_tokens=64, max_num_seqs=8)
    requests = [request(range(i, i + 5 + 7 * (i % 9)), max_tokens=50) for i in range(30)]
    results = run(core, requests)
    assert all(len(result.tokens) == 50 for result in results)


def test_choices_share_the_prompt() -> None:
    """The choices after the first find the prompt in the prefix cache; each has a stream of its own."""
    core = mock_core()
    item = request(range(70), num_choices=4, max_tokens=12, temperature=1.0)
    core.submit(item, 0.0)
    results, reports = drain(core)
    assert len({tuple(results[item.key, choice].tokens) for choice in range(4)}) == 4
    assert [results[item.key, choice].cached_tokens for choice in range(4)] == [0, 64, 64, 64]
    assert sum(report.prefill_tokens for report in reports) == 70 + 3 * 6


def test_an_idle_step_is_empty() -> None:
    """Without work a step computes nothing and says so."""
    output = mock_core().step(0.0)
    assert output.tokens == []
    assert output.report.rows == 0
    assert isinstance(output.report, StepReport)
