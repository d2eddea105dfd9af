"""Requests come, end, are cancelled, migrate, run out of time; wrong ones are refused with a typed error."""

import pytest

from sagellm_common.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
)
from sagellm_engine.core.requests import REMEMBER_S
from sagellm_engine.core.types import FinishReason
from support.engine import Results, collect, drain, mock_core, request, run


@pytest.mark.parametrize(
    ("param", "options"),
    [
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": [0] * 300}),
        ("prompt", {"prompt": [0] * 256}),
        ("prompt", {"prompt": [1, 1000]}),
        ("prompt", {"prompt": [-1]}),
        ("prompt", {"prompt": [0] * 200, "delivered": ((1,) * 57,), "max_tokens": 100}),
        ("max_tokens", {"max_tokens": 0}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": float("nan")}),
        ("temperature", {"temperature": 1e9}),
        ("top_p", {"top_p": 0.0}),
        ("top_p", {"top_p": 1.1}),
        ("top_k", {"top_k": -1}),
        ("min_p", {"min_p": 2.0}),
        ("presence_penalty", {"presence_penalty": 3.0}),
        ("frequency_penalty", {"frequency_penalty": float("inf")}),
        ("repetition_penalty", {"repetition_penalty": 0.0}),
        ("logprobs", {"logprobs": 21}),
        ("logprobs", {"logprobs": -1}),
        ("min_tokens", {"min_tokens": 9}),
        ("logit_bias", {"logit_bias": {5000: 1.0}}),
        ("logit_bias", {"logit_bias": {5: float("nan")}}),
        ("stop_token_ids", {"stop_token_ids": (1000,)}),
        ("seed", {"seed": 2**70}),
        ("num_choices", {"num_choices": 0}),
        ("num_choices", {"num_choices": 1000}),
        ("delivered", {"delivered": ((1,), (2,))}),
        ("delivered", {"delivered": ((5000,),)}),
    ],
    ids=str,
)
def test_wrong_requests_are_refused(param: str, options: dict[str, object]) -> None:
    """Each absurd value is refused with its name, and the engine goes on serving."""
    core = mock_core(max_model_len=256)
    prompt = options.pop("prompt", [1, 2, 3])
    with pytest.raises(InvalidArgument) as caught:
        core.submit(request(prompt, **options), 0.0)  # type: ignore[arg-type]
    assert caught.value.param == param
    assert not core.has_work()
    assert len(run(core, [request([1, 2, 3])])[0].tokens) == 8


def test_finish_reasons() -> None:
    """A choice ends at max_tokens, at the end of the context, or with a stop token, which is delivered."""
    core = mock_core(max_model_len=20)
    full, short = run(core, [request(range(10), max_tokens=50), request(range(10), max_tokens=3)])
    assert (full.finish, len(full.tokens)) == (FinishReason.LENGTH, 10)
    assert (short.finish, len(short.tokens)) == (FinishReason.LENGTH, 3)
    stop = full.tokens[4]
    assert full.tokens.index(stop) == 4
    [stopped] = run(core, [request(range(10), max_tokens=50, stop_token_ids=(stop,))])
    assert (stopped.finish, stopped.tokens) == (FinishReason.STOP, full.tokens[:5])
    [late] = run(core, [request(range(10), max_tokens=50, stop_token_ids=(stop,), min_tokens=7)])
    assert len(late.tokens) >= 7


def test_model_end_tokens_and_ignore_eos() -> None:
    """The model's end token ends a choice unless ignore_eos is set."""
    plain = run(mock_core(), [request([1, 2], max_tokens=30)])[0].tokens
    core = mock_core(eos_token_id=plain[6])
    ended, ignored = run(core, [request([1, 2], max_tokens=30), request([1, 2], max_tokens=30, ignore_eos=True)])
    assert (ended.finish, ended.tokens) == (FinishReason.STOP, plain[: plain.index(plain[6]) + 1])
    assert ignored.tokens == plain


def test_same_key_is_idempotent() -> None:
    """A second submission of an open or ended key changes nothing."""
    core = mock_core()
    item = request([1, 2, 3])
    assert core.submit(item, 0.0)
    assert not core.submit(item, 0.0)
    results, _ = drain(core)
    assert len(results[item.key, 0].tokens) == 8
    assert not core.submit(item, REMEMBER_S - 1)
    assert not core.has_work()


def test_newer_epoch_replaces_older() -> None:
    """A newer epoch silences the open older one; an older one that comes late is dropped."""
    core = mock_core()
    results: Results = {}
    core.submit(request([1, 2], key="a", epoch=1), 0.0)
    collect(core, results)
    assert core.submit(request([1, 2], key="a", epoch=2), 0.0)
    assert not core.submit(request([1, 2], key="a", epoch=1), 0.0)
    assert not core.submit(request([1, 2], key="a", epoch=0), 0.0)
    later, _ = drain(core)
    assert set(later) == {(("a", 2), 0)}
    assert not core.submit(request([1, 2], key="a", epoch=1), 1.0)


def test_migrated_request_continues() -> None:
    """Tokens delivered by an earlier epoch are prefilled; generation continues at that index with the same tokens."""
    [whole] = run(mock_core(), [request(range(30), max_tokens=20, seed=3)])
    delivered = (tuple(whole.tokens[:7]),)
    [rest] = run(mock_core(), [request(range(30), max_tokens=20, seed=3, epoch=2, delivered=delivered)])
    assert rest.first_index == 7
    assert rest.tokens == whole.tokens[7:]


@pytest.mark.parametrize("stop", [(), (9,)])
def test_migrated_request_that_was_complete(stop: tuple[int, ...]) -> None:
    """If the delivered tokens end the choice already, only the end is reported."""
    max_tokens = 50 if stop else 3
    item = request([1], delivered=((7, 8, 9),), max_tokens=max_tokens, stop_token_ids=stop)
    [result] = run(mock_core(), [item])
    assert (result.tokens, result.first_index) == ([], 3)
    assert result.finish is (FinishReason.STOP if stop else FinishReason.LENGTH)


def test_finished_choices_are_left_out() -> None:
    """Choices that ended in an earlier epoch are not computed again."""
    item = request([1, 2], num_choices=3, delivered=((), (4, 5), ()), finished_choices=(1,))
    core = mock_core()
    core.submit(item, 0.0)
    results, _ = drain(core)
    assert {choice for _, choice in results} == {0, 2}


def test_cancel_frees_pages_at_once() -> None:
    """A cancelled request holds no page from then on; its choices end as cancelled in the next step."""
    core = mock_core(prefix_cache=False)
    running = request(range(200), num_choices=2, max_tokens=100)
    other = request(range(20), max_tokens=5)
    core.submit(running, 0.0)
    core.submit(other, 0.0)
    results: Results = {}
    for _ in range(3):
        collect(core, results)
    assert core.cancel(running.key, 0.0)
    assert core.gauges().running == 1
    assert core.gauges().pages_total - core.gauges().pages_free == 2
    while core.has_work():
        collect(core, results)
    core.check_invariants()
    assert {results[running.key, choice].finish for choice in (0, 1)} == {FinishReason.CANCELLED}
    assert len(results[other.key, 0].tokens) == 5
    assert not core.cancel(running.key, 0.0)


def test_cancel_of_waiting_request() -> None:
    """A request that waits is cancelled without ever running."""
    core = mock_core(max_num_seqs=1)
    first, second = request([1]), request([2])
    core.submit(first, 0.0)
    core.submit(second, 0.0)
    collect(core, {})
    assert core.cancel(second.key, 0.0)
    results, _ = drain(core)
    assert results[second.key, 0].tokens == []
    assert core.gauges().waiting == 0


def test_cancel_that_overtakes_its_request() -> None:
    """A cancel that comes first is remembered for a minute; the request is refused then, and taken later."""
    core = mock_core()
    item = request([1])
    assert not core.cancel(item.key, 10.0)
    with pytest.raises(Cancelled):
        core.submit(item, 10.0 + REMEMBER_S - 1)
    assert core.submit(item, 10.0 + REMEMBER_S + 1)


def test_deadline() -> None:
    """A request past its deadline is refused, or fails with a typed error whether it waits or runs."""
    core = mock_core(max_num_seqs=1)
    with pytest.raises(DeadlineExceeded):
        core.submit(request([1], deadline=5.0), 5.0)
    running, waiting = request([1], deadline=7.0, max_tokens=100), request([1], deadline=7.0)
    core.submit(running, 5.0)
    core.submit(waiting, 5.0)
    results: Results = {}
    collect(core, results, now=6.0)
    assert len(results[running.key, 0].tokens) == 1
    collect(core, results, now=7.0)
    core.check_invariants()
    assert not core.has_work()
    for item in (running, waiting):
        assert results[item.key, 0].finish is FinishReason.ERROR
        assert isinstance(results[item.key, 0].error, DeadlineExceeded)


def test_too_many_waiting() -> None:
    """Beyond max_waiting a request is refused as exhausted, not lost; for whom a place is free does not wait."""
    core = mock_core(max_num_seqs=2, max_waiting=2)
    for _ in range(4):
        core.submit(request([1]), 0.0)
    for _ in range(2):
        with pytest.raises(ResourceExhausted):
            core.submit(request([1]), 0.0)
        core.step(0.0)
    results, _ = drain(core)
    assert len(results) == 4


def test_group_comes_back() -> None:
    """Every output carries its request's group, the last one after a cancel too."""
    core = mock_core()
    item = request([1], group="gateway-7", max_tokens=5)
    core.submit(item, 0.0)
    groups = {output.group for output in core.step(0.0).tokens}
    core.cancel(item.key, 0.0)
    groups |= {output.group for output in core.step(0.0).tokens}
    assert groups == {"gateway-7"}
