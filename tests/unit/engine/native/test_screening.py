"""The likeliest token without all logits: always the one that all logits would have given."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from sagellm_common.errors import Internal
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.factory import create_engine
from sagellm_engine.models.config import read_model_config
from sagellm_engine.native import layout
from sagellm_engine.native import model as native_model
from sagellm_engine.native.abi import Compute, KvKind, WeightKind
from sagellm_engine.native.kv import NativeKv
from sagellm_engine.native.layout import model_parts
from sagellm_engine.native.library import library
from sagellm_engine.native.model import NativeModel
from sagellm_engine.native.packed_file import PackedFile
from sagellm_engine.native.packing import packed_model
from sagellm_engine.native.sampling import native_sample, wants_likeliest
from support.engine import Result, request, run
from support.native import ISAS, instruction_set, threads
from support.sequences import sequence

VOCAB, HIDDEN = 8300, 48
"""More than one piece of the search has, and no whole panels; no whole group of inputs."""

KINDS = {
    torch.float32: (WeightKind.F32, Compute.F32),
    torch.bfloat16: (WeightKind.BF16, Compute.BF16),
    torch.float16: (WeightKind.F16, Compute.F32),
}


@pytest.fixture(autouse=True)
def _small_heads_are_screened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "LEAST_SCREENED", 1)
    monkeypatch.setattr(native_model, "FAST_INT8", ISAS)
    monkeypatch.setenv("SAGELLM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(params=ISAS)
def use_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test with each instruction set that the processor has."""
    with instruction_set(request.param) as available:
        if not available:
            pytest.skip(f"the processor lacks {request.param}")
        yield request.param


def write_model(folder: Path, head: Tensor) -> Path:
    """Write a decoder of one layer with this output layer [vocabulary, HIDDEN], all weights of its type."""
    torch.manual_seed(3)
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(head),
            hidden_size=HIDDEN,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=3,
            num_key_value_heads=1,
            tie_word_embeddings=False,
            initializer_range=0.2,
            bos_token_id=0,
            eos_token_id=1,
        )
    ).to(head.dtype)
    with torch.no_grad():
        made.lm_head.weight.copy_(head)
    made.save_pretrained(folder)
    return folder


def load(folder: Path, kind: WeightKind, compute: Compute) -> NativeModel:
    """Load it, with a screen."""
    config = read_model_config(folder)
    model = NativeModel(config, kind, compute, packed_model(folder, config, kind), NativeKv(config, 64, KvKind.F32))
    assert model.screens
    return model


def prompts(count: int) -> list[SequenceState]:
    """Sequences of one token each."""
    made = []
    for number in range(count):
        seq = sequence([number % 40], temperature=0.0)
        seq.pages, seq.num_scheduled = [number], 1
        made.append(seq)
    return made


def by_all_logits(model: NativeModel, rows: list[SequenceState]) -> list[int]:
    """The tokens as the sampler finds them; -1 where it refuses."""
    sampled = native_sample(model.forward(rows, range(len(rows))), rows)
    return [-1 if place in sampled.errors else token for place, token in enumerate(sampled.token_ids)]


def by_screen(model: NativeModel, rows: list[SequenceState]) -> list[int]:
    """The same tokens without the logits."""
    return list(model.step(rows, [], range(len(rows)))[1])


def noise(seed: int, rows: int = VOCAB) -> Tensor:
    """A random output layer."""
    return torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(seed))


def changed(change: Callable[[Tensor], object]) -> Tensor:
    """One that is changed in place."""
    head = noise(1)
    change(head)
    return head


HEADS: dict[str, Tensor] = {
    "random": noise(1),
    "nearly equal": noise(1, 1) + 2e-3 * noise(2),
    "few different": noise(1)[torch.arange(VOCAB) * 7 % 5],
    "one much larger": changed(lambda head: head[8000].mul_(1000)),
    "an outlier channel": changed(lambda head: head[:, 5].mul_(1000)),
    "tiny": 1e-4 * noise(1),
    "large": 1e3 * noise(1),
    "zeros": torch.zeros(VOCAB, HIDDEN),
    "zeros but one": torch.cat([torch.zeros(8299, HIDDEN), noise(1, 1)]),
    "not a number": changed(lambda head: head[77, 3].fill_(float("nan"))),
    "infinite": changed(lambda head: head[8299, 0].fill_(float("inf"))),
}


@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("name", HEADS)
def test_it_is_the_token_of_all_logits(tmp_path: Path, use_isa: str, name: str, dtype: torch.dtype) -> None:
    """With any weights, for few rows and for many: of equal logits the first, and nothing where one is no number."""
    model = load(write_model(tmp_path / "model", HEADS[name].to(dtype)), *KINDS[dtype])
    for count in (1, 4, 5, 29):
        rows = prompts(count)
        assert by_screen(model, rows) == by_all_logits(model, rows)


def hidden_state(folder: Path) -> Tensor:
    """What enters the output layer for the first prompt, [HIDDEN]."""
    model = load(write_model(folder, torch.eye(HIDDEN)), WeightKind.F32, Compute.F32)
    return model.forward(prompts(1), [0])[0].clone()


def test_errors_as_large_as_they_can_be(tmp_path: Path) -> None:
    """An output whose weights were all rounded against it is found behind one for which all were rounded."""
    x = hidden_state(tmp_path / "all")
    signs, others = x.sign(), torch.arange(HIDDEN) > 0
    more = signs * (x.abs() > x.abs().median())
    head = torch.zeros(200, HIDDEN)
    head[:, 0] = 127.0 * signs[0]  # the scale is 1
    head[150] += others * (30.49 * signs)
    head[3] += others * (30.0 * signs + more - 0.49 * signs)
    model = load(write_model(tmp_path / "model", head), WeightKind.F32, Compute.F32)
    as_kept = head.round() @ x
    assert as_kept[3] > as_kept[150]
    assert by_screen(model, prompts(1)) == by_all_logits(model, prompts(1)) == [150]


def test_padding_is_never_the_likeliest(tmp_path: Path) -> None:
    """Where all logits are below zero, the zeros behind the last of them are not above."""
    below = -torch.linspace(2, 1, 70).unsqueeze(1) * hidden_state(tmp_path / "all")
    model = load(write_model(tmp_path / "below", below), WeightKind.F32, Compute.F32)
    assert float(model.forward(prompts(1), [0]).max()) < 0.0
    assert by_screen(model, prompts(1)) == [69]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_logits_beside_tokens(tmp_path: Path, number: int) -> None:
    """Some rows get logits and some tokens, in one step, by any number of threads: the same bits, the same tokens."""
    model = load(write_model(tmp_path / "model", noise(2).bfloat16()), *KINDS[torch.bfloat16])
    rows = prompts(23)
    tokens, logits = by_all_logits(model, rows), model.forward(rows, range(23)).clone()
    wanted, chosen = [3, 0, 22], [7, 1, 21, 2, 20, 19]
    with threads(number):
        found, picked = model.step(rows, wanted, chosen)
        assert torch.equal(found, logits[wanted])
        assert list(picked) == [tokens[row] for row in chosen]


def test_a_prompt_ends_in_its_token(tmp_path: Path) -> None:
    """Of the rows of prompts, only the last ones are chosen for."""
    model = load(write_model(tmp_path / "model", noise(2).bfloat16()), *KINDS[torch.bfloat16])
    seqs = [sequence([3 * i + number for i in range(length)], temperature=0.0) for number, length in enumerate((40, 9))]
    for number, seq in enumerate(seqs):
        seq.pages, seq.num_scheduled = list(range(8 * number, 8 * number + 8)), len(seq.tokens)
    logits = model.forward(seqs, [39, 48])
    assert list(model.step(seqs, [], [39, 48])[1]) == [int(row.argmax()) for row in logits]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    different=st.integers(1, VOCAB),
    power=st.sampled_from([0.5, 1.0, 3.0]),
    apart=st.sampled_from([1e-2, 1e-1, 1.0]),
    dtype=st.sampled_from(list(KINDS)),
    count=st.integers(1, 17),
)
def test_whatever_the_weights(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    different: int,
    power: float,
    apart: float,
    dtype: torch.dtype,
    count: int,
) -> None:
    """Heavy tails, outputs that are close to each other or the same: the same token."""
    values = noise(seed, 1) + apart * noise(seed + 1, different)
    head = (values.sign() * values.abs() ** power)[torch.arange(VOCAB) % different]
    model = load(write_model(tmp_path_factory.mktemp("model"), head.to(dtype)), *KINDS[dtype])
    rows = prompts(count)
    assert by_screen(model, rows) == by_all_logits(model, rows)


def vector(packed: PackedFile, name: str, size: int) -> Tensor:
    """A vector of a packed model."""
    memory = np.frombuffer(packed._memory, np.float32, size, packed.address(name) - packed._base)
    return torch.from_numpy(memory.copy())


def test_the_bounds_hold(tmp_path: Path) -> None:
    """What a copy lost is what the file says it lost, and no less; what cannot be told has no bound."""
    head = changed(lambda head: head[9, 9].fill_(float("nan")))
    folder = write_model(tmp_path / "model", head)
    packed = packed_model(folder, read_model_config(folder), WeightKind.F32)
    outputs = -(-VOCAB // library().sage_panel_width()) * library().sage_panel_width()
    misses, lengths = (vector(packed, f"screen.{name}", outputs) for name in ("misses", "lengths"))
    ordinary = torch.arange(VOCAB) != 9
    scale = head.abs().amax(1, keepdim=True) / 127
    lost = (head - (head / scale).round() * scale).norm(dim=1)
    assert bool((misses[:VOCAB] >= lost)[ordinary].all())
    assert bool((misses[:VOCAB] <= 1.01 * lost)[ordinary].all())
    assert bool((lengths[:VOCAB] >= head.norm(dim=1))[ordinary].all())
    unbounded = torch.cat([misses[9:10], misses[VOCAB:]])
    assert bool((unbounded > 1e38).all())


def test_small_and_quantized_heads_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is kept where it pays."""
    config = read_model_config(write_model(tmp_path, noise(1)))
    assert model_parts(config, WeightKind.INT8).screen is None
    assert model_parts(config, WeightKind.INT4).screen is None
    monkeypatch.setattr(layout, "LEAST_SCREENED", VOCAB * HIDDEN + 1)
    assert model_parts(config, WeightKind.BF16).screen is None


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.5},
        {"logprobs": 0},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"repetition_penalty": 1.1},
        {"logit_bias": {3: 1.0}},
        {"min_tokens": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_who_asks_for_more_gets_all_logits(options: dict[str, object]) -> None:
    """Whatever changes logits, or shows them, needs them."""
    assert wants_likeliest(sequence([1], temperature=0.0))
    assert not wants_likeliest(sequence([1], **{"temperature": 0.0, **options}))


MIXED: tuple[dict[str, object], ...] = (
    {"max_tokens": 9},
    {"max_tokens": 12, "temperature": 1.0, "seed": 5},
    {"max_tokens": 7, "logprobs": 2},
    {"max_tokens": 11},
)


def answers(folder: Path) -> list[Result]:
    """What an engine makes of greedy and of other requests side by side."""
    config = EngineConfig(backend="cpu", model_path=folder, kernels="native", num_pages=64, max_model_len=256)
    requests = [request([5, 6, number], ignore_eos=True, **options) for number, options in enumerate(MIXED)]
    return run(create_engine(config), requests)


def test_an_engine_answers_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All get what they get without a screen."""
    folder = write_model(tmp_path / "model", noise(4).bfloat16())
    screened = answers(folder)
    monkeypatch.setattr(layout, "LEAST_SCREENED", 1 << 40)
    monkeypatch.setenv("SAGELLM_CACHE_DIR", str(tmp_path / "another"))
    assert answers(folder) == screened


def test_an_engine_says_what_is_no_number(tmp_path: Path) -> None:
    """A model whose logits are not numbers gives every request an error of its own."""
    results = answers(write_model(tmp_path / "model", HEADS["not a number"]))
    assert [type(result.error) for result in results] == [Internal] * len(MIXED)
