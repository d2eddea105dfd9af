"""The quantized modes stay close to the lossless one, on the built-in model and on a copy with outlier channels."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from benchmarks.outliers import FACTOR, WEIGHTS, with_outliers
from benchmarks.quality import LOSSLESS, MODEL, compare, held_out_tokens, load, logits_of
from sagellm_engine.backends.native_runner import NativeRunner

NUM_TOKENS = 1000
MOST_KL = 0.01
"""Nats a token. Measured over 20,000 tokens: INT8 0.0003, INT4 0.005, INT8 keys and values 0.00001."""


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    """Give a few held-out documents."""
    return held_out_tokens(Tokenizer.from_file(str(MODEL / "tokenizer.json")), NUM_TOKENS)


@pytest.fixture(scope="module")
def lossless() -> NativeRunner:
    """Give the model as it is."""
    return load(MODEL, LOSSLESS)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the model with outlier channels of all sorts."""
    return with_outliers(MODEL, tmp_path_factory.mktemp("outliers") / "model")


@pytest.mark.parametrize("mode", ["int8", "int4", "int8-kv", "int8+int8-kv"])
def test_the_distribution_stays(mode: str, texts: list[list[int]], lossless: NativeRunner) -> None:
    """A mode's KL divergence is small, and not zero, for it computes something else."""
    assert 0 < compare(load(MODEL, mode), lossless, texts)["kl"] < MOST_KL


def test_outlier_channels_are_in_every_layer(copy: Path) -> None:
    """Rows of values and up, and gains of norms, stand out by the factor in the copy."""
    ours, original = load_file(copy / WEIGHTS), load_file(MODEL / WEIGHTS)
    names = [name for name in original if "v_proj" in name or "up_proj" in name]
    for name in names:
        before, after = original[name].float().norm(dim=1), ours[name].norm(dim=1)
        assert float((after / before).max()) > FACTOR / 2, name
    gains = [name for name in original if "layernorm" in name]
    for name in gains:
        assert float((ours[name] / original[name].float()).max()) == FACTOR, name


def test_outlier_channels_change_nothing(copy: Path, texts: list[list[int]], tmp_path: Path) -> None:
    """The copy computes the same logits to the last bit as one in fp32 without them."""
    runner, plain = load(copy, LOSSLESS), load(with_outliers(MODEL, tmp_path / "plain", ()), LOSSLESS)
    for tokens in texts:
        assert torch.equal(logits_of(runner, tokens), logits_of(plain, tokens))


@pytest.mark.parametrize("mode", ["int8", "int8-kv", "int8+int8-kv"])
def test_outlier_channels_are_handled(mode: str, copy: Path, texts: list[list[int]], lossless: NativeRunner) -> None:
    """With outlier channels the KL divergence is as small."""
    assert compare(load(copy, mode), lossless, texts)["kl"] < MOST_KL
