"""The mock backend: the same tokens everywhere, in the time that the model says."""

import sys
from collections import Counter

import pytest

from sagellm_engine.backends.mock import MockRunner
from sagellm_engine.core.config import EngineConfig, MockConfig
from sagellm_engine.core.engine import EngineCore
from support.engine import drain, mock_core, request, run

GOLDEN = [850, 503, 155, 103, 756, 408]


@pytest.mark.acceptance(5)
def test_tokens_are_a_function_of_prompt_seed_and_choice() -> None:
    """Two mock engines, in any company, make the same sampled stream; another prompt or seed makes another."""
    items = [request(prompt, seed=seed, temperature=1.0) for prompt, seed in (([1, 2], 1), ([1, 3], 1), ([1, 2], 2))]
    together = [result.tokens for result in run(mock_core(), items)]
    alone = [run(mock_core(max_batch_tokens=64), [item])[0].tokens for item in items]
    assert together == alone
    assert len({tuple(tokens) for tokens in together}) == 3
    assert all(0 <= token < 1000 for tokens in together for token in tokens)


def test_a_second_turn_is_the_same_behind_a_cached_first() -> None:
    """The answer of the first turn is part of the second's prompt, and lies in pages that decoding filled."""
    core, prompt = mock_core(), list(range(40))
    answer = run(core, [request(prompt, max_tokens=60)])[0].tokens
    [cached] = run(core, [request([*prompt, *answer, 1, 2], max_tokens=20)])
    [cold] = run(mock_core(), [request([*prompt, *answer, 1, 2], max_tokens=20)])
    assert cached.cached_tokens >= 80
    assert cached.tokens == cold.tokens


def test_greedy_does_not_depend_on_the_seed() -> None:
    """At temperature 0 the seed changes nothing, as with a real model."""
    assert (
        run(mock_core(), [request([1, 2], seed=1)])[0].tokens == run(mock_core(), [request([1, 2], seed=2)])[0].tokens
    )


def test_golden_stream() -> None:
    """The sampled stream is the same in every process and version."""
    assert run(mock_core(), [request([1, 2, 3], seed=42, max_tokens=6, temperature=1.0)])[0].tokens == GOLDEN


def test_vocabulary_is_used() -> None:
    """Tokens spread over the vocabulary and never leave it."""
    [result] = run(mock_core(vocab_size=50), [request([1], max_tokens=2000)])
    assert set(result.tokens) == set(range(50))


def test_time_model() -> None:
    """A step takes its base time, a share per prefilled token, and a share per decoding sequence."""
    slept: list[float] = []
    config = EngineConfig(
        backend="mock", mock=MockConfig(step_base_ms=5.0, ms_per_prefill_token=0.5, ms_per_decode_seq=2.0)
    )
    core = EngineCore(config, MockRunner(config, sleep=slept.append))
    core.submit(request(range(10), max_tokens=3), 0.0)
    core.submit(request(range(20), max_tokens=3), 0.0)
    drain(core)
    assert slept == pytest.approx([0.020, 0.009, 0.009])


def test_logprobs_have_the_asked_shape() -> None:
    """Requests with log-probabilities get an entry per token with that many alternatives."""
    [result] = run(mock_core(), [request([1], logprobs=3)])
    assert len(result.logprobs) == 8
    assert all(len(entry.top) == 3 for entry in result.logprobs)


def test_lean() -> None:
    """A decoding step of 200 sequences calls 25 functions a sequence at most: it has to cost far below a millisecond.

    Calls are counted, not seconds, which depend on the machine and on what else runs.
    """
    core = mock_core(max_num_seqs=256)
    for i in range(200):
        core.submit(request(range(i, i + 5), max_tokens=60), 0.0)
    core.step(0.0)
    calls: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, arg: calls.update([event]))
    try:
        core.step(0.0)
    finally:
        sys.setprofile(None)
    assert 200 < calls["call"] + calls["c_call"] < 25 * 200
