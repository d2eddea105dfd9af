"""A fault hurts one request: the step is repeated without it, the engine goes on."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sagellm_common.errors import Internal, ResourceExhausted, SageError
from sagellm_engine.backends.mock import MockRunner
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.core.types import FinishReason
from sagellm_engine.factory import create_engine
from support.engine import FaultyRunner, Results, collect, drain, mock_core, request, run
from support.tiny_models import make_tiny_model


def faulty(fault: object, **options: object) -> tuple[EngineCore, FaultyRunner]:
    """Make a mock core whose runner has a fault."""
    config = EngineConfig(backend="mock", **options)  # type: ignore[arg-type]
    runner = FaultyRunner(MockRunner(config), fault)  # type: ignore[arg-type]
    return EngineCore(config, runner), runner


def raising(error: Exception, marker: int) -> object:
    """Make a fault that raises whenever a sequence starts with the marker."""

    def fault(rows: Sequence[SequenceState]) -> None:
        if any(seq.tokens[0] == marker for seq in rows):
            raise error

    return fault


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RuntimeError("kernel failed"), Internal),
        (torch.OutOfMemoryError("CUDA out of memory"), ResourceExhausted),
        (MemoryError(), ResourceExhausted),
        (ResourceExhausted("typed already"), ResourceExhausted),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_the_request_that_fails_alone_fails(raised: Exception, expected: type[SageError]) -> None:
    """An exception in a step fails the one request that causes it; the others get what they get without it."""
    core, runner = faulty(raising(raised, 666))
    prompts = [[i, i + 1] for i in range(9)]
    prompts[5][0] = 666
    requests = [request(prompt) for prompt in prompts]
    healthy = run(mock_core(), requests)
    results = run(core, requests)
    for i, (result, reference) in enumerate(zip(results, healthy, strict=True)):
        if i == 5:
            assert (result.tokens, result.finish) == ([], FinishReason.ERROR)
            assert isinstance(result.error, expected)
        else:
            assert result.tokens == reference.tokens
    assert max(runner.calls[1:8]) < 9
    assert len(run(core, [request([1, 2])])[0].tokens) == 8


def test_out_of_memory_of_the_whole_batch_fails_nobody() -> None:
    """When only the batch as a whole does not fit, its halves are computed and nobody fails."""

    def fault(rows: Sequence[SequenceState]) -> None:
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    core, _ = faulty(fault)
    requests = [request([i]) for i in range(8)]
    assert [result.tokens for result in run(core, requests)] == [result.tokens for result in run(mock_core(), requests)]


def test_all_choices_of_a_failed_request_end() -> None:
    """A fault of one choice ends the request with an error for each choice, and frees all its pages."""

    def fault(rows: Sequence[SequenceState]) -> dict[int, SageError]:
        return {i: Internal("broken") for i, seq in enumerate(rows) if seq.choice == 1 and seq.num_output == 3}

    core, _ = faulty(fault, prefix_cache=False)
    item, other = request(range(40), num_choices=3, max_tokens=10), request([5], max_tokens=10)
    core.submit(item, 0.0)
    core.submit(other, 0.0)
    results, _ = drain(core)
    assert {results[item.key, choice].finish for choice in range(3)} == {FinishReason.ERROR}
    assert len(results[other.key, 0].tokens) == 10
    assert core.gauges().pages_free == core.gauges().pages_total


def test_pages_of_a_failed_row_are_not_trusted() -> None:
    """What a failed request computed is cleared and never served to a later prompt."""
    failing = [True]

    def fault(rows: Sequence[SequenceState]) -> dict[int, SageError]:
        if failing[0] and rows[0].num_output == 2:
            return {0: Internal("broken")}
        return {}

    core, runner = faulty(fault)
    run(core, [request(range(64), max_tokens=9)])
    assert len(runner.cleared) == 5
    failing[0] = False
    assert run(core, [request(range(64), max_tokens=9)])[0].cached_tokens == 0


@pytest.fixture(params=["native", "torch"])
def nan_core(tmp_path: Path, request: pytest.FixtureRequest) -> EngineCore:
    """An engine whose model gives NaN for token 77 alone."""
    make_tiny_model("llama3-rope", tmp_path)  # not tied, so that the fault stays in one row of the embedding
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.embed_tokens.weight"][77] = float("nan")
    save_file(weights, tmp_path / "model.safetensors")
    return create_engine(EngineConfig(model_path=tmp_path, backend="cpu", num_pages=64, kernels=request.param))


def test_nan_fails_one_request(nan_core: EngineCore) -> None:
    """A request whose numbers break fails; those in its batch, and those that get its pages, do not."""
    prompts = [[2, 3, 4, 5], [2, 77, 4, 5] * 20, [9] * 30]
    requests = [request(prompt, temperature=0.5, seed=1, max_tokens=20) for prompt in prompts]
    first, broken, third = run(nan_core, requests)
    assert isinstance(broken.error, Internal)
    assert first.error is third.error is None
    again = [request(prompt, temperature=0.5, seed=1, max_tokens=20) for prompt in (prompts[0], prompts[2])]
    assert [result.tokens for result in run(nan_core, again)] == [first.tokens, third.tokens]
    whole_pool = [request([3 + i] * 100, max_tokens=20) for i in range(8)]
    assert all(result.error is None for result in run(nan_core, whole_pool))


def test_nan_in_a_chunk_that_does_not_sample(nan_core: EngineCore) -> None:
    """A NaN early in a long prompt is found at its end, and fails that request alone."""
    core = EngineCore(EngineConfig(max_batch_tokens=32, max_num_seqs=4), nan_core._runner)
    results: Results = {}
    broken, healthy = request([77] + [5] * 100), request([6] * 50)
    core.submit(broken, 0.0)
    core.submit(healthy, 0.0)
    while core.has_work():
        collect(core, results)
    assert isinstance(results[broken.key, 0].error, Internal)
    assert len(results[healthy.key, 0].tokens) == 8
    core.check_invariants()
