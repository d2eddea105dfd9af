"""Tokens and log-probabilities are the same to the last bit, whatever a request is computed together with."""

import random
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.engine import EngineCore
from sagellm_engine.core.types import EngineRequest
from sagellm_engine.factory import create_engine
from support.engine import Result, Results, collect, request
from support.native import threads
from support.tiny_models import VOCAB_SIZE, make_tiny_model

MODES: dict[str, dict[str, object]] = {
    "lossless": {"kernels": "native"},
    "bfloat16": {"kernels": "native", "dtype": "bfloat16"},
    "int8": {"kernels": "native", "quantization": "int8"},
    "int4": {"kernels": "native", "quantization": "int4"},
    "int8-kv": {"kernels": "native", "kv_cache_dtype": "int8"},
    "twin": {"kernels": "torch"},
}
NUM_REQUESTS = 6
MAX_LEN = 192


class Folders(dict[str, Path]):
    """Model folders by type; shown by their name alone."""

    def __repr__(self) -> str:
        return "folders"


class Alone(dict[str, list[Result]]):
    """What each request gets alone, by mode; shown by its name alone."""

    def __repr__(self) -> str:
        return "alone"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Write the same tiny model in fp32 and in bf16."""
    found = Folders()
    for dtype in ("float32", "bfloat16"):
        folder = tmp_path_factory.mktemp(dtype)
        model = make_tiny_model("qwen3", folder)
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        found[dtype] = folder
    return found


def engine(folders: Folders, mode: str, **options: object) -> EngineCore:
    """Make an engine in one of the modes."""
    chosen = MODES[mode]
    folder = folders["bfloat16" if chosen.get("dtype") == "bfloat16" else "float32"]
    settings_ = {"num_pages": 80, "max_model_len": MAX_LEN, **chosen, **options}
    return create_engine(EngineConfig(model_path=folder, backend="cpu", num_threads=1, **settings_))  # type: ignore[arg-type]


@cache
def prompts() -> list[list[int]]:
    """Give prompts of different lengths, some with a common beginning."""
    rng = random.Random(3)
    common = [rng.randrange(2, VOCAB_SIZE) for _ in range(40)]
    lengths = (5, 17, 50, 33, 90, 48)
    return [
        (common if number % 2 else [])[:length]
        + [rng.randrange(2, VOCAB_SIZE) for _ in range(max(length - (40 if number % 2 else 0), 1))]
        for number, length in enumerate(lengths)
    ]


def requests(which: list[int]) -> list[EngineRequest]:
    """Make the requests of these numbers: greedy and sampled ones in turn, with log-probabilities."""
    return [
        request(
            prompts()[i],
            key=f"{i}-{place}",
            max_tokens=12 + i,
            temperature=0.9 if i % 2 else 0.0,
            top_p=0.9,
            seed=i,
            logprobs=2,
            ignore_eos=True,
        )
        for place, i in enumerate(which)
    ]


def play(core: EngineCore, items: list[EngineRequest], steps_between: list[int]) -> list[Result]:
    """Submit requests one after the other, with some steps in between, and run to the end."""
    results: Results = {}
    for item, steps in zip(items, steps_between, strict=True):
        core.submit(item, 0.0)
        for _ in range(steps):
            collect(core, results)
    while core.has_work():
        collect(core, results)
    core.check_invariants()
    return [results[item.key, 0] for item in items]


@pytest.fixture(scope="module")
def alone(folders: Folders) -> Alone:
    """Compute every request alone on a fresh engine, in each mode."""
    return {mode: [play(engine(folders, mode), requests([i]), [0])[0] for i in range(NUM_REQUESTS)] for mode in MODES}


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=12)
@given(
    which=st.lists(st.integers(0, NUM_REQUESTS - 1), min_size=1, max_size=9),
    seed=st.integers(0, 10**6),
    max_batch_tokens=st.sampled_from([8, 13, 40, 256]),
    num_pages=st.sampled_from([12, 18, 80]),
    prefix_cache=st.booleans(),
)
def test_any_schedule(
    folders: Folders,
    alone: Alone,
    mode: str,
    which: list[int],
    seed: int,
    max_batch_tokens: int,
    num_pages: int,
    prefix_cache: bool,
) -> None:
    """Cold or cached, alone or batched, whole or in chunks, preempted or not: the same bits."""
    core = engine(
        folders,
        mode,
        max_batch_tokens=max_batch_tokens,
        max_num_seqs=8,
        num_pages=num_pages,
        prefix_cache=prefix_cache,
    )
    rng = random.Random(seed)
    results = play(core, requests(which), [rng.randrange(6) for _ in which])
    for i, result in zip(which, results, strict=True):
        assert result.tokens == alone[mode][i].tokens
        assert result.logprobs == alone[mode][i].logprobs


@pytest.mark.parametrize("number", [2, 3])
def test_any_number_of_threads(folders: Folders, alone: Alone, number: int) -> None:
    """More threads compute the same bits."""
    core = engine(folders, "lossless")
    with threads(number):
        results = play(core, requests(list(range(NUM_REQUESTS))), [0] * NUM_REQUESTS)
    assert [(r.tokens, r.logprobs) for r in results] == [(r.tokens, r.logprobs) for r in alone["lossless"]]
