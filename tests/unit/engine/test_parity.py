"""The engine computes what transformers computes: tiny random models in fp32."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from sagellm_engine.backends.native_runner import NativeRunner
from sagellm_engine.backends.torch_runner import TorchRunner
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.factory import create_engine
from support.engine import Result, collect, drain, request, run
from support.tiny_models import TINY_MODELS, VOCAB_SIZE, make_tiny_model, reference_logits

pytestmark = pytest.mark.acceptance(113)

LOGIT_TOLERANCE = 1e-4
MARGIN = 1e-3
NUM_POSITIONS = 64


class Subject:
    """One tiny model on one kind of kernels: its folder and transformers' version of it."""

    def __init__(self, name: str, kernels: str, folder: Path) -> None:
        self.kernels = kernels
        self.folder = folder
        self.model: PreTrainedModel = make_tiny_model(name, folder)

    def core(self, **options: object) -> EngineCore:
        """Make an engine on this model."""
        options = {"num_pages": 96, "kernels": self.kernels, **options}
        return create_engine(EngineConfig(model_path=self.folder, backend="cpu", **options))  # type: ignore[arg-type]

    def check(self, prompt: list[int], result: Result) -> None:
        """Assert that every greedy token is the reference's wherever that one is clear, and so is its likelihood."""
        assert result.tokens
        logits = reference_logits(self.model, prompt + result.tokens)[len(prompt) - 1 : -1]
        logprobs = logits.log_softmax(dim=-1)
        best = logits.topk(2, dim=-1)
        for i, token in enumerate(result.tokens):
            if best.values[i, 0] - best.values[i, 1] > MARGIN:
                assert token == int(best.indices[i, 0]), f"token {i} differs"
            assert abs(result.logprobs[i].logprob - float(logprobs[i, token])) < 1e-3


@pytest.fixture(
    scope="module",
    params=[(kernels, name) for kernels in ("native", "torch") for name in TINY_MODELS],
    ids=lambda param: "-".join(param),
)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """Give each family in turn, on our kernels and on their plain twin."""
    kernels, name = request.param
    return Subject(name, kernels, tmp_path_factory.mktemp("model"))


def prompt_of(length: int, seed: int = 0) -> list[int]:
    """Return a random prompt without end tokens."""
    rng = random.Random(f"{seed}/{length}")
    return [rng.randrange(2, VOCAB_SIZE) for _ in range(length)]


def greedy(prompt: list[int], num_tokens: int = 24, **options: object):  # noqa: ANN201 an EngineRequest
    """Ask for the likeliest tokens with their log-probabilities."""
    return request(prompt, max_tokens=num_tokens, ignore_eos=True, logprobs=1, **options)


@pytest.mark.parametrize("chunks", [(64,), (16, 48), (1, 7, 20, 36), (1,) * 64], ids=["whole", "two", "ragged", "ones"])
def test_logits_teacher_forced(subject: Subject, chunks: tuple[int, ...]) -> None:
    """Over 64 given positions the logits are the reference's, whole, in chunks, and one token at a time."""
    tokens = prompt_of(NUM_POSITIONS)
    expected = reference_logits(subject.model, tokens)
    runner = subject.core()._runner
    assert isinstance(runner, TorchRunner | NativeRunner)
    seq = SequenceState(greedy(tokens), 0, stop_ids=frozenset(), max_model_len=512, order=0)
    seq.pages = [5, 2, 9, 0]
    parts = []
    for chunk in chunks:
        seq.num_scheduled = chunk
        parts.append(runner.all_logits(seq))
        seq.num_computed += chunk
    error = (torch.cat(parts) - expected).abs().max() / expected.abs().max()
    assert float(error) <= LOGIT_TOLERANCE


def test_alone(subject: Subject) -> None:
    """A request alone gets the reference's tokens."""
    prompt = prompt_of(20)
    [result] = run(subject.core(), [greedy(prompt, 64)])
    subject.check(prompt, result)
    assert len(result.tokens) == 64


def test_mixed_batch(subject: Subject) -> None:
    """Requests of all lengths that come while others run get the reference's tokens."""
    core = subject.core()
    prompts = [prompt_of(length) for length in (1, 15, 16, 17, 33, 90, 5, 48)]
    requests = [greedy(prompt, 10 + 3 * i) for i, prompt in enumerate(prompts)]
    results = {}
    for item in requests:
        core.submit(item, 0.0)
        collect(core, results)
    while core.has_work():
        collect(core, results)
    core.check_invariants()
    for prompt, item in zip(prompts, requests, strict=True):
        subject.check(prompt, results[item.key, 0])


def test_prefix_hits(subject: Subject) -> None:
    """Prompts found in the prefix cache, whole or in part, get the reference's tokens."""
    core = subject.core()
    prompt = prompt_of(50)
    run(core, [greedy(prompt)])
    prompts = [prompt, prompt[:40] + prompt_of(9), prompt[:32], prompt + prompt_of(20)]
    results = run(core, [greedy(item) for item in prompts])
    for item, result in zip(prompts, results, strict=True):
        subject.check(item, result)
    assert [result.cached_tokens for result in results] == [48, 32, 16, 48]


def test_chunked_prefill(subject: Subject) -> None:
    """Prompts prefilled in chunks beside decoding requests get the reference's tokens."""
    core = subject.core(max_batch_tokens=13, max_num_seqs=4)
    prompts = [prompt_of(length) for length in (60, 41, 7, 100)]
    requests = [greedy(prompt) for prompt in prompts]
    for item in requests:
        core.submit(item, 0.0)
    results, reports = drain(core)
    assert any(report.prefill_tokens and report.decode_seqs for report in reports)
    assert max(report.rows for report in reports) <= 13
    for prompt, item in zip(prompts, requests, strict=True):
        subject.check(prompt, results[item.key, 0])


def test_after_preemption(subject: Subject) -> None:
    """Requests that had to give their pages back and start over get the reference's tokens."""
    core = subject.core(num_pages=10, max_model_len=160, prefix_cache=False)
    prompts = [prompt_of(length) for length in (30, 31, 29)]
    requests = [greedy(prompt, 40) for prompt in prompts]
    for item in requests:
        core.submit(item, 0.0)
    results, reports = drain(core)
    assert sum(report.preemptions for report in reports) > 0
    for prompt, item in zip(prompts, requests, strict=True):
        subject.check(prompt, results[item.key, 0])


def test_after_migration(subject: Subject) -> None:
    """A second epoch that brings the delivered tokens along continues as the first would have."""
    prompt = prompt_of(37)
    [whole] = run(subject.core(), [greedy(prompt, 30)])
    [rest] = run(subject.core(), [greedy(prompt, 30, epoch=2, delivered=(tuple(whole.tokens[:11]),))])
    subject.check(prompt, whole)
    assert rest.first_index == 11
    subject.check(prompt + whole.tokens[:11], rest)
    assert len(rest.tokens) == 19


def test_sampled_stream_survives_everything(subject: Subject) -> None:
    """With a seed, alone, batched, chunked, preempted or migrated, the same tokens are drawn."""
    prompt = prompt_of(33)
    options = {"max_tokens": 40, "temperature": 0.8, "top_p": 0.9, "seed": 1234, "ignore_eos": True}
    [alone] = run(subject.core(), [request(prompt, **options)])
    others = [request(prompt_of(30, i), **{**options, "seed": i}) for i in range(2)]
    core = subject.core(num_pages=10, max_model_len=160, max_batch_tokens=16, max_num_seqs=4)
    crowded = run(core, [*others, request(prompt, **options)])[-1]
    migrated = request(prompt, epoch=3, delivered=(tuple(alone.tokens[:20]),), **options)
    [rest] = run(subject.core(), [migrated])
    assert crowded.tokens == alone.tokens
    assert rest.tokens == alone.tokens[20:]
