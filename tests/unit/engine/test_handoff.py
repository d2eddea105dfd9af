"""Prompts that one core prefills and another one goes on with: the same tokens, and every page accounted for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sagellm_common.errors import Cancelled, DeadlineExceeded
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.types import EngineRequest, FirstToken, Held
from sagellm_engine.factory import create_engine
from sagellm_engine.kv.pool import PAGE_SIZE
from sagellm_engine.transfer.reads import PageRead, PageReads
from sagellm_engine.transfer.transport import InProcessTransport, memory_of
from support.engine import Result, Results, collect, drain, mock_core, request, run
from support.tiny_models import make_tiny_model

PROMPT = [(7 * place) % 90 + 5 for place in range(75)]
Make = Callable[..., EngineCore]


@pytest.fixture(params=["mock", "torch", "native"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Make an engine of a backend."""
    if request.param == "mock":
        return lambda **options: mock_core(vocab_size=100, **options)
    make_tiny_model("llama", tmp_path)

    def create(**options: object) -> EngineCore:
        sizes = {"num_pages": 64, "max_model_len": 512, **options}
        config = EngineConfig(model_path=tmp_path, backend="cpu", kernels=request.param, num_threads=1, **sizes)  # type: ignore[arg-type]
        return create_engine(config)

    return create


def prefill(core: EngineCore, item: EngineRequest) -> list[Held]:
    """Prefill a request with `hold`; return how it got on."""
    told: list[Held] = []
    core.on_held = told.append
    assert core.submit(item, 0.0)
    while core.has_work():
        told += core.step(0.0).held
    return told


def copy_pages(giver: EngineCore, taker: EngineCore, sources: tuple[int, ...], targets: tuple[int, ...]) -> None:
    """Read pages of one engine into those of another."""
    ours, theirs = taker.runner.kv_layout("m"), giver.runner.kv_layout("m")
    transport = InProcessTransport()
    reads = PageReads(transport, ours)
    reads.start(PageRead(1, transport.open(memory_of(theirs)), theirs, 0, sources, targets))
    assert reads.poll() == [(1, True)]


def hand_over(giver: EngineCore, taker: EngineCore, item: EngineRequest, held: Held) -> None:
    """Bring a prefilled request from one core to the other."""
    assert held.first is not None
    reserved = taker.reserve(item.prompt_token_ids)
    assert reserved is not None
    known = reserved.num_known // PAGE_SIZE
    copy_pages(giver, taker, held.pages[known:], reserved.pages[known:])
    giver.release_held(held.key, 0.0)
    assert taker.adopt(item, reserved.pages, held.first, 0.0)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 5}, {"logprobs": 2}])
def test_the_stream_is_the_same(make: Make, sampling: dict[str, object]) -> None:
    """Tokens and logprobs are those of one engine that does it all; both sides have all their pages afterwards."""
    alone = run(make(), [request(PROMPT, max_tokens=30, **sampling)])[0]
    giver, taker = make(max_batch_tokens=64), make()
    item = request(PROMPT, max_tokens=30, **sampling)
    told = prefill(giver, _holding(item))
    assert [held.num_ready for held in told] == [0, 64 // PAGE_SIZE, len(told[0].pages)]
    assert [held.first is None for held in told] == [True, True, False]
    hand_over(giver, taker, item, told[-1])
    results, reports = drain(taker)
    found = results[item.key, 0]
    assert (found.tokens, found.logprobs, found.finish) == (alone.tokens, alone.logprobs, alone.finish)
    assert reports[0].prefill_tokens == 0, "nothing is prefilled again"
    for core in (giver, taker):
        core.check_invariants()


def test_a_prompt_that_was_handed_over_is_known_on_both_sides(make: Make) -> None:
    """The next request with the same prompt finds it in either engine's prefix cache."""
    giver, taker = make(), make()
    item = request(PROMPT)
    hand_over(giver, taker, item, prefill(giver, _holding(item))[-1])
    drain(taker)
    for core in (giver, taker):
        assert run(core, [request(PROMPT)])[0].cached_tokens == len(PROMPT) // PAGE_SIZE * PAGE_SIZE


@pytest.mark.parametrize("unit", [PAGE_SIZE, 3 * PAGE_SIZE])
def test_only_what_is_not_known_is_read(make: Make, unit: int) -> None:
    """The next turn of a conversation: the pages of the first stay, those behind them are read, the stream is right."""
    giver, taker = make(), make()
    first = request(PROMPT, max_tokens=30)
    answer = run(taker, [first])[0].tokens
    turn = request([*PROMPT, *answer, *PROMPT[:40]], max_tokens=30)
    alone = run(make(), [request(turn.prompt_token_ids, max_tokens=30)])[0]
    held = prefill(giver, _holding(turn))[-1]
    reserved = taker.reserve(turn.prompt_token_ids, unit)
    assert reserved is not None
    assert held.first is not None
    assert reserved.num_known == (len(PROMPT) + len(answer) - 1) // unit * unit
    known = reserved.num_known // PAGE_SIZE
    copy_pages(giver, taker, held.pages[known:], reserved.pages[known:])
    taker.adopt(turn, reserved.pages, held.first, 0.0)
    taker.check_invariants()
    results, reports = drain(taker)
    assert results[turn.key, 0].tokens == alone.tokens
    assert sum(report.prefill_tokens for report in reports) == 0
    assert _in_use(taker) == 0


def test_pages_of_a_known_prefix_are_shared_and_stay_known_when_a_hand_off_fails() -> None:
    """Two reservations of one known prompt have its pages in common; given back, the next request finds them."""
    core = mock_core()
    run(core, [request(PROMPT)])
    before = _in_use(core)
    first, second = core.reserve(PROMPT), core.reserve(PROMPT)
    assert first is not None
    assert second is not None
    whole = first.num_known // PAGE_SIZE
    assert whole > 0
    assert first.pages[:whole] == second.pages[:whole]
    assert not set(first.pages[whole:]) & set(second.pages[whole:])
    core.check_invariants()
    core.free_reserved(first.pages)
    core.free_reserved(second.pages)
    core.check_invariants()
    assert _in_use(core) == before
    assert run(core, [request(PROMPT)])[0].cached_tokens == first.num_known


def test_the_other_choices_share_the_pages_that_came() -> None:
    """A request of three choices goes on with all of them."""
    options: dict[str, object] = {"num_choices": 3, "temperature": 0.8, "seed": 3, "max_tokens": 12}
    alone_core = mock_core()
    alone_core.submit(request(PROMPT, key="r", **options), 0.0)
    alone, _ = drain(alone_core)
    giver, taker = mock_core(), mock_core()
    item = request(PROMPT, key="r", **options)
    hand_over(giver, taker, item, prefill(giver, _holding(item))[-1])
    results, reports = drain(taker)
    assert {key: found.tokens for key, found in results.items()} == {key: one.tokens for key, one in alone.items()}
    assert sum(report.prefill_tokens for report in reports) <= 2 * PAGE_SIZE


def test_a_first_token_that_ends_the_answer_ends_it_on_the_other_side() -> None:
    """`max_tokens` 1, and a first token that stops."""
    giver, taker = mock_core(), mock_core()
    short = request(PROMPT, max_tokens=1)
    hand_over(giver, taker, short, prefill(giver, _holding(short))[-1])
    first = run(mock_core(), [request(PROMPT)])[0].tokens[0]
    stopped = request(PROMPT, stop_token_ids=(first,))
    hand_over(giver, taker, stopped, prefill(giver, _holding(stopped))[-1])
    results, _ = drain(taker)
    assert _ends(results, short) == ([first], "length")
    assert _ends(results, stopped) == ([first], "stop")


def test_pages_with_wrong_content_make_a_wrong_stream() -> None:
    """What tests of hand-offs among mock engines rely on: their tokens come from what the pages hold."""
    giver, taker = mock_core(), mock_core()
    item = request(PROMPT, max_tokens=20)
    held = prefill(giver, _holding(item))[-1]
    reserved = taker.reserve(PROMPT)
    assert reserved is not None
    assert held.first is not None
    copy_pages(giver, taker, held.pages[::-1], reserved.pages)
    taker.adopt(item, reserved.pages, held.first, 0.0)
    results, _ = drain(taker)
    assert results[item.key, 0].tokens[1:] != run(mock_core(), [request(PROMPT, max_tokens=20)])[0].tokens[1:]


def test_pages_that_are_held_are_never_preempted() -> None:
    """Decoding sequences that run out of pages preempt each other, not what another engine reads."""
    core = mock_core(num_pages=24, max_batch_tokens=64, max_num_seqs=8)
    told: list[Held] = []
    core.on_held = told.append
    held = request(PROMPT * 2, hold=True)
    for number in range(3):
        core.submit(request([number + 1] * 40, max_tokens=120), 0.0)
    core.submit(held, 0.0)
    results: Results = {}
    preemptions = 0
    while core.has_work():
        preemptions += collect(core, results).preemptions
    assert preemptions > 0
    assert told[0].pages == _held_pages(core, held)
    core.check_invariants()
    core.release_held(held.key, 0.0)
    core.check_invariants()
    assert _in_use(core) == 0


def test_reservations_count_as_running_sequences_and_as_pages() -> None:
    """No more than `max_num_seqs` in all, no page twice, and everything is there again when they are given back."""
    core = mock_core(num_pages=8, max_num_seqs=2)
    first, second = core.reserve([1] * 40), core.reserve([1] * 40)
    assert first is not None
    assert second is not None
    assert not set(first.pages) & set(second.pages)
    assert core.reserve([1]) is None, "two sequences are spoken for"
    core.submit(request([1, 2, 3]), 0.0)
    assert core.step(0.0).report.rows == 0, "so that none is admitted"
    core.free_reserved(first.pages)
    assert core.reserve([1] * 16 * 6) is None, "more pages than are left"
    core.check_invariants()
    results, _ = drain(core)
    assert len(results) == 1
    core.free_reserved(second.pages)
    assert _in_use(core) == 0


def test_a_request_that_is_over_is_not_adopted() -> None:
    """Cancelled or too late: its pages come back at once."""
    core = mock_core()
    cancelled, late = request(PROMPT), request(PROMPT, deadline=1.0)
    core.cancel(cancelled.key, 0.0)
    for item, error in ((cancelled, Cancelled), (late, DeadlineExceeded)):
        reserved = core.reserve(PROMPT)
        assert reserved is not None
        with pytest.raises(error):
            core.adopt(item, reserved.pages, FirstToken(1), 2.0)
        assert _in_use(core) == 0
    core.check_invariants()


def test_the_gauges_tell_prompts_that_are_for_other_engines() -> None:
    """Whether they run or wait, until they are complete; those that are answered here do not count."""
    core = mock_core(max_batch_tokens=32, max_num_seqs=2)
    first, second, third = request(PROMPT, hold=True), request(PROMPT, max_tokens=9), request(PROMPT * 2, hold=True)
    for item in (first, second, third):
        core.submit(item, 0.0)
    core.step(0.0)
    gauges = core.gauges()
    assert (gauges.running, gauges.waiting, gauges.leaving) == (1, 2, 2)
    assert gauges.leaving_tokens == 3 * len(PROMPT)
    while core.has_work():
        core.step(0.0)
    assert (core.gauges().leaving, core.gauges().leaving_tokens) == (0, 0)
    for item in (first, third):
        core.release_held(item.key, 0.0)
    core.check_invariants()


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_prefill_that_is_given_up_leaves_nothing(steps: int) -> None:
    """Released before its first step, in the middle, and when it is complete."""
    core = mock_core(max_batch_tokens=32, max_num_seqs=4)
    item = request(PROMPT, hold=True)
    core.submit(item, 0.0)
    for _ in range(steps):
        core.step(0.0)
    core.release_held(item.key, 0.0)
    assert not core.has_work()
    assert _in_use(core) == 0
    core.check_invariants()


def _holding(item: EngineRequest) -> EngineRequest:
    return EngineRequest(key=item.key, prompt_token_ids=item.prompt_token_ids, sampling=item.sampling, hold=True)


def _in_use(core: EngineCore) -> int:
    gauges = core.gauges()
    return gauges.pages_total - gauges.pages_free - gauges.pages_cached


def _held_pages(core: EngineCore, item: EngineRequest) -> tuple[int, ...]:
    return tuple(core._held[item.key].pages)


def _ends(results: Results, item: EngineRequest) -> tuple[list[int], str]:
    found: Result = results[item.key, 0]
    return found.tokens, str(found.finish)
