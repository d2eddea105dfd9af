"""Steps of many rows, of which every thread takes a share."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.models.config import read_model_config
from sagellm_engine.native.abi import Compute, KvKind, WeightKind
from sagellm_engine.native.kv import NativeKv
from sagellm_engine.native.library import set_threads
from sagellm_engine.native.model import NativeModel
from sagellm_engine.native.packing import packed_model
from sagellm_engine.processors import PROCESSORS
from support.sequences import sequence
from support.tiny_models import VOCAB_SIZE, make_tiny_model

LENGTHS = (217, 5, 301, 64)


@pytest.fixture(autouse=True)
def _default_threads() -> Iterator[None]:
    yield
    set_threads(len(PROCESSORS), PROCESSORS)


def sequences() -> list[SequenceState]:
    """Prompts of several lengths, each with pages of its own, and room for a token more."""
    made, first_page = [], 0
    for number, length in enumerate(LENGTHS):
        seq = sequence([(11 * i * i + 5 * i + number) % VOCAB_SIZE for i in range(length)])
        seq.pages = list(range(first_page, first_page := first_page + length // 16 + 1))
        made.append(seq)
    return made


def model_in(folder: Path, kind: WeightKind = WeightKind.INT8, compute: Compute = Compute.INT8) -> NativeModel:
    """The tiny model with bfloat16 pages, in INT8, where most can go wrong, if nothing else is asked for."""
    config = read_model_config(folder)
    packed = packed_model(folder, config, kind)
    return NativeModel(config, kind, compute, packed, NativeKv(config, 64, KvKind.BF16))


def alone(model: NativeModel, seq: SequenceState, chunk: int) -> Tensor:
    """All logits of a sequence, so many rows a step."""
    parts = []
    while seq.num_computed < len(seq.tokens):
        seq.num_scheduled = min(chunk, len(seq.tokens) - seq.num_computed)
        parts.append(model.forward([seq], range(seq.num_scheduled)).clone())
        seq.num_computed += seq.num_scheduled
    return torch.cat(parts)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_shares_change_nothing(tmp_path: Path, threads: int) -> None:
    """All prompts at once give the bits that each gives alone in small steps on one thread."""
    make_tiny_model("llama", tmp_path)
    model = model_in(tmp_path)
    set_threads(1)
    expected = torch.cat([alone(model, seq, chunk=40) for seq in sequences()])
    set_threads(threads)
    together = sequences()
    for seq in together:
        seq.num_scheduled = len(seq.tokens)
    assert torch.equal(model.forward(together, range(sum(LENGTHS))), expected)


def test_more_threads_than_at_first(tmp_path: Path) -> None:
    """A model goes on with the buffers that more threads need."""
    make_tiny_model("llama", tmp_path)
    model, seq = model_in(tmp_path), sequences()[0]
    set_threads(1)
    seq.num_scheduled = len(seq.tokens)
    expected = model.forward([seq], range(seq.num_scheduled)).clone()
    set_threads(7)
    assert torch.equal(model.forward([seq], range(seq.num_scheduled)), expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("kind", "compute"),
    [(WeightKind.INT8, Compute.INT8), (WeightKind.BF16, Compute.BF16), (WeightKind.BF16, Compute.F32)],
    ids=["int8", "bf16", "fp32"],
)
@pytest.mark.parametrize(
    "wanted",
    [(), (586,), (216, 221, 522, 586), (0, 217, 300), tuple(range(0, 587, 2)), (586, 3, 219)],
    ids=["none", "the last", "the last of each", "any", "every second", "in any order"],
)
def test_rows_that_get_no_logits_are_not_missed(
    tmp_path: Path, wanted: tuple[int, ...], kind: WeightKind, compute: Compute, threads: int
) -> None:
    """Whichever rows of the prompts get logits, these are the same bits, and so are those of the token that follows."""
    in_bfloat16(tmp_path)
    set_threads(threads)
    rows, after = prompts_and_one_token(model_in(tmp_path, kind, compute), range(sum(LENGTHS)))
    some, after_some = prompts_and_one_token(model_in(tmp_path, kind, compute), wanted)
    assert torch.equal(some, rows[list(wanted)])
    assert torch.equal(after_some, after)


def prompts_and_one_token(model: NativeModel, wanted: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits of some rows of all prompts in one step, and of one token more of each in the next."""
    seqs = sequences()
    for seq in seqs:
        seq.num_scheduled = len(seq.tokens)
    logits = model.forward(seqs, wanted).clone()
    for seq in seqs:
        seq.num_computed, seq.num_scheduled = len(seq.tokens), 1
        seq.tokens.append(7)
    return logits, model.forward(seqs, range(len(seqs))).clone()


def in_bfloat16(folder: Path) -> None:
    """Write the tiny model with weights of bfloat16."""
    model = make_tiny_model("llama", folder)
    model.to(torch.bfloat16).save_pretrained(folder)
