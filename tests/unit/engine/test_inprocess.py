"""The engine without services."""

from pathlib import Path

import pytest

from sagellm_common.errors import InvalidArgument, NotFound
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.types import FinishReason, SamplingParams
from sagellm_engine.inprocess import LocalEngine
from support.tiny_models import make_tiny_model


def test_generate() -> None:
    """Each prompt gets its tokens, with options of its own if wanted."""
    with LocalEngine(EngineConfig(backend="mock")) as engine:
        same = engine.generate([[1], [2], [1]], SamplingParams(max_tokens=5))
        assert [len(tokens) for tokens in same] == [5, 5, 5]
        assert same[0] == same[2] != same[1]
        own = engine.generate([[1], [2]], [SamplingParams(max_tokens=2), SamplingParams(max_tokens=7)])
        assert [len(tokens) for tokens in own] == [2, 7]


def test_stream_can_be_left() -> None:
    """Outputs come as they are made; leaving the stream cancels the request and frees its pages."""
    with LocalEngine(EngineConfig(backend="mock", prefix_cache=False)) as engine:
        outputs = list(engine.stream([1, 2], SamplingParams(max_tokens=4)))
        assert outputs[-1].finish is FinishReason.LENGTH
        stream = engine.stream([1, 2], SamplingParams(max_tokens=100))
        assert next(stream).first_index == 0
        stream.close()
        assert engine.core.gauges().pages_free == engine.core.gauges().pages_total


def test_errors_are_raised() -> None:
    """A request that is refused raises; a model that is not there raises at the start."""
    with LocalEngine(EngineConfig(backend="mock")) as engine, pytest.raises(InvalidArgument):
        engine.generate([[]], SamplingParams(max_tokens=5))
    with pytest.raises(NotFound, match="not found"):
        LocalEngine(EngineConfig(backend="cpu", model_path=Path("/nowhere/at/all")))
    with pytest.raises(InvalidArgument, match="needs a model_path"):
        LocalEngine(EngineConfig(backend="cpu"))


def test_a_refused_prompt_leaves_nothing_behind() -> None:
    """When one prompt of several is refused, the others are given up, and the next call starts clean."""
    with LocalEngine(EngineConfig(backend="mock")) as engine:
        with pytest.raises(InvalidArgument):
            engine.generate([[1], [2], []], SamplingParams(max_tokens=5))
        assert not engine.core.has_work()
        engine.core.check_invariants()
        assert len(engine.generate([[1]], SamplingParams(max_tokens=5))[0]) == 5


def test_real_model_generates(tmp_path: Path) -> None:
    """A model folder is loaded and generates the same greedy tokens together as alone."""
    make_tiny_model("qwen3", tmp_path)
    prompts = [[2, 3, 4], [5] * 40, [9, 8]]
    with LocalEngine(EngineConfig(backend="auto", model_path=tmp_path, num_pages=64)) as engine:
        greedy = SamplingParams(max_tokens=10, temperature=0.0, ignore_eos=True)
        together = engine.generate(prompts, greedy)
        assert together == [engine.generate([prompt], greedy)[0] for prompt in prompts]
