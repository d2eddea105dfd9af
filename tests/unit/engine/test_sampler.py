"""Choosing tokens: distributions, limits, penalties, and independence of the batch."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sagellm_common.errors import Internal
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.core.types import SamplingParams
from sagellm_engine.native.sampling import native_sample
from sagellm_engine.sampling.adjust import adjust_logits
from sagellm_engine.sampling.limits import least_surviving, row_limits
from sagellm_engine.sampling.sampler import Sampled
from sagellm_engine.sampling.sampler import sample as torch_sample
from support.sequences import sequence

Sampler = Callable[[Tensor, Sequence[SequenceState]], Sampled]


@pytest.fixture(params=[torch_sample, native_sample], ids=["torch", "native"])
def sample(request: pytest.FixtureRequest) -> Sampler:
    """Give both samplers in turn."""
    sampler: Sampler = request.param
    return sampler


def logits_of(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    """Return random logits."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def naive_survivors(scores: Sequence[float], params: SamplingParams) -> set[int]:
    """Sort the whole vocabulary and apply min-p, top-k, top-p one after another, equals staying together."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    best = scores[order[0]]
    weight = [math.exp(score - best) for score in scores]
    alive = [i for i in order if weight[i] >= params.min_p]
    if params.top_k:
        kth = scores[alive[min(params.top_k, len(alive)) - 1]]
        alive = [i for i in alive if scores[i] >= kth]
    if params.top_p < 1.0:
        total, before, last = sum(weight[i] for i in alive), 0.0, alive[0]
        for i in alive:
            if before >= params.top_p * total:
                break
            before, last = before + weight[i], i
        alive = [i for i in alive if scores[i] >= scores[last]]
    return set(alive)


def survivors_of(scores_RV: Tensor, params: list[SamplingParams]) -> list[set[int]]:
    """Return the survivors of the threshold selection."""
    best = scores_RV.amax(dim=1, keepdim=True)
    threshold = least_surviving(scores_RV, best, row_limits(params, scores_RV.shape[1], scores_RV.device))
    return [set(row.nonzero()[:, 0].tolist()) for row in scores_RV >= threshold]


PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.just(1),
    top_k=st.sampled_from([0, 1, 2, 5, 63, 64, 65, 200, 1000]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.1, 1e-6]),
    min_p=st.sampled_from([0.0, 0.001, 0.1, 0.5, 1.0]),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(PARAMS, min_size=1, max_size=5), st.integers(0, 10**6), st.sampled_from([0.01, 1.0, 4.0]))
def test_limits_equal_full_sort(params: list[SamplingParams], seed: int, scale: float) -> None:
    """Threshold selection keeps exactly the tokens that sorting everything keeps."""
    scores = logits_of(len(params), 700, seed=seed, scale=scale).double()
    assert survivors_of(scores, params) == [
        naive_survivors(row, item) for row, item in zip(scores.tolist(), params, strict=True)
    ]


def test_equal_scores_stay_together() -> None:
    """Tokens as likely as the least likely survivor survive too, even beyond the first candidates."""
    params = [SamplingParams(max_tokens=1, top_k=3), SamplingParams(max_tokens=1, top_p=0.5)]
    scores = torch.zeros(2, 300)
    scores[:, 7] = 1.0
    assert survivors_of(scores, params) == [set(range(300)), set(range(300))]


def test_greedy_takes_the_likeliest(sample: Sampler) -> None:
    """Temperature 0 takes the largest logit of each row."""
    logits = logits_of(6, 900)
    assert sample(logits.clone(), [sequence([1]) for _ in range(6)]).token_ids == logits.argmax(1).tolist()


def draws(sample: Sampler, logits_V: Tensor, num: int, **options: object) -> Counter[int]:
    """Draw once from each of many seeds."""
    rows = [sequence([1, 2], seed=seed, **{"temperature": 1.0, **options}) for seed in range(num)]
    return Counter(sample(logits_V.repeat(num, 1), rows).token_ids)


@pytest.mark.acceptance(8)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"top_k": 4, "top_p": 0.9},
    ],
    ids=str,
)
def test_distribution(sample: Sampler, options: dict[str, float]) -> None:
    """Drawn frequencies are those of the softmax over the survivors (chi-squared, p over 1e-4)."""
    logits = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0])
    num = 4000
    scores = (logits / options.get("temperature", 1.0)).tolist()
    limits = {name: value for name, value in options.items() if name != "temperature"}
    alive = naive_survivors(scores, SamplingParams(max_tokens=1, **limits))  # type: ignore[arg-type]
    total = sum(math.exp(scores[i]) for i in alive)
    counts = draws(sample, logits, num, **options)
    assert set(counts) <= alive
    expected = {i: num * math.exp(scores[i]) / total for i in alive}
    chi_squared = sum((counts[i] - expected[i]) ** 2 / expected[i] for i in alive)
    assert chi_squared < 30.0  # 7 degrees of freedom at most: p = 1e-4


def test_wide_vocabulary_distribution(sample: Sampler) -> None:
    """Where only few of many tokens can win, those few come up as often as they should."""
    logits = torch.full((5000,), -40.0)
    logits[[17, 4321]] = torch.tensor([1.0, 0.0])
    counts = draws(sample, logits, 3000)
    assert set(counts) == {17, 4321}
    assert abs(counts[17] / 3000 - 1 / (1 + math.exp(-1))) < 0.03


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.05}], ids=str)
def test_a_row_does_not_depend_on_its_neighbours(sample: Sampler, options: dict[str, float]) -> None:
    """A row draws the same token alone and in a batch of rows with other options."""
    logits = logits_of(9, 1200)
    mixed = [
        sequence([3], seed=50 + row, temperature=temperature, top_k=top_k, presence_penalty=penalty)
        for row, (temperature, top_k, penalty) in enumerate(
            [(0.0, 0, 0.0), (1.0, 0, 0.0), (0.7, 5, 1.0), (2.0, 0, 0.0), (0.0, 0, 2.0), (1.0, 900, 0.0), (0.1, 0, 0.0)]
        )
    ]
    row = sequence([1, 2, 3], seed=99, temperature=1.3, **options)
    alone = sample(logits[4:5].clone(), [row]).token_ids
    batched = sample(logits[:8].clone(), [*mixed[:4], row, *mixed[4:]]).token_ids
    assert alone == batched[4:5]


def test_each_choice_and_position_draws_anew(sample: Sampler) -> None:
    """Choices of one request, and positions of one choice, draw different tokens; the same place draws the same."""
    logits = torch.zeros(1, 1000)

    def draw(row: SequenceState) -> int:
        return sample(logits.clone(), [row]).token_ids[0]

    options: dict[str, object] = {"temperature": 1.0, "seed": 5, "num_choices": 40}
    by_choice = [draw(sequence([1], choice=i, **options)) for i in range(40)]
    by_position = [draw(sequence([1], output=range(2, 2 + i), **options)) for i in range(40)]
    assert len(set(by_choice)) > 30
    assert len(set(by_position)) > 30
    assert by_choice == [draw(sequence([1], choice=i, **options)) for i in range(40)]


def adjusted(logits: list[float], row: SequenceState) -> list[float]:
    """Apply a row's adjustments."""
    table = torch.tensor([logits])
    adjust_logits(table, [row])
    return table[0].tolist()


def test_presence_and_frequency_penalties() -> None:
    """Presence counts once and frequency by occurrence, over the output alone."""
    row = sequence([0, 0, 3], output=[1, 1, 2], presence_penalty=0.5, frequency_penalty=0.25)
    assert adjusted([1.0, 1.0, 1.0, 1.0], row) == [1.0, 0.0, 0.25, 1.0]


def test_repetition_penalty() -> None:
    """Prompt and output tokens lose: positive logits are divided, negative ones multiplied."""
    row = sequence([0], output=[1], repetition_penalty=2.0)
    assert adjusted([3.0, -3.0, 3.0], row) == [1.5, -6.0, 3.0]


def test_logit_bias_and_min_tokens() -> None:
    """A bias is added; before min_tokens the end tokens cannot come."""
    row = sequence([9], logit_bias={1: 5.0, 2: -1.5}, min_tokens=2, stop_ids=[3])
    assert adjusted([0.0, 0.0, 0.0, 0.0], row) == [0.0, 5.0, -1.5, float("-inf")]
    row.tokens.extend([0, 0])
    assert adjusted([0.0, 0.0, 0.0, 0.0], row) == [0.0, 5.0, -1.5, 0.0]


def test_logprobs_are_the_models(sample: Sampler) -> None:
    """Log-probabilities are those of the unadjusted logits at temperature 1, alternatives likeliest first."""
    logits = logits_of(2, 50)
    rows = [
        sequence([1], logprobs=3, temperature=0.3, seed=4, logit_bias={0: 100.0}),
        sequence([1]),
    ]
    result = sample(logits.clone(), rows)
    expected = logits.log_softmax(dim=1)[0]
    assert result.token_ids[0] == 0
    assert set(result.logprobs) == {0}
    assert result.logprobs[0].logprob == pytest.approx(float(expected[0]), abs=1e-5)
    best = expected.topk(3)
    assert [token for token, _ in result.logprobs[0].top] == best.indices.tolist()
    assert [value for _, value in result.logprobs[0].top] == pytest.approx(best.values.tolist(), abs=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_a_number_fails_alone(sample: Sampler, bad: float, temperature: float) -> None:
    """NaN or infinite logits fail their row; the others get what they get without it."""
    logits = logits_of(3, 100)
    rows = [sequence([1], seed=row, temperature=temperature) for row in range(3)]
    healthy = sample(logits.clone(), rows)
    logits[1, 50] = bad
    result = sample(logits.clone(), rows)
    assert set(result.errors) == {1}
    assert isinstance(result.errors[1], Internal)
    assert [result.token_ids[0], result.token_ids[2]] == [healthy.token_ids[0], healthy.token_ids[2]]


def test_tiny_temperature_is_greedy(sample: Sampler) -> None:
    """A temperature too small to divide by takes the likeliest token."""
    logits = logits_of(1, 100)
    assert sample(logits.clone(), [sequence([1], temperature=1e-40)]).token_ids == logits.argmax(1).tolist()


OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.2, 0.8, 1.0, 1.7]),
        "top_k": st.sampled_from([0, 1, 7, 64, 500]),
        "top_p": st.sampled_from([1.0, 0.95, 0.5, 0.01]),
        "min_p": st.sampled_from([0.0, 0.02, 0.3]),
        "presence_penalty": st.sampled_from([0.0, 0.7]),
        "frequency_penalty": st.sampled_from([0.0, -0.4]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "logit_bias": st.sampled_from([{}, {3: 4.0, 5: -2.0}]),
        "min_tokens": st.sampled_from([0, 9]),
        "logprobs": st.sampled_from([None, 0, 5]),
        "seed": st.integers(0, 2**64 - 1),
    }
)


@settings(max_examples=150)
@given(st.lists(OPTIONS, min_size=1, max_size=6), st.sampled_from([37, 700, 4099, 33_000]), st.integers(0, 10**6))
def test_both_samplers_choose_the_same(options: list[dict[str, object]], vocab_size: int, seed: int) -> None:
    """Our sampler and its plain twin choose the same tokens and give the same log-probabilities."""
    logits = logits_of(len(options), vocab_size, seed=seed)
    rows = [sequence([1, 2, 2], output=[4, 4, 6], stop_ids=[8, 9], **item) for item in options]
    ours, twin = native_sample(logits.clone(), rows), torch_sample(logits.clone(), rows)
    assert ours.token_ids == twin.token_ids
    assert set(ours.logprobs) == set(twin.logprobs)
    for row, entry in ours.logprobs.items():
        assert entry.logprob == pytest.approx(twin.logprobs[row].logprob, abs=1e-5)
        assert [token for token, _ in entry.top] == [token for token, _ in twin.logprobs[row].top]
        assert [x for _, x in entry.top] == pytest.approx([x for _, x in twin.logprobs[row].top], abs=1e-5)
