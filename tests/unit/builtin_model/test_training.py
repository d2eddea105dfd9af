"""A training run that is interrupted goes on where its checkpoint stopped."""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from builtin_model import data, train
from builtin_model.model import Llama, ModelShape
from builtin_model.presets import BUILTIN_FOLDER
from builtin_model.tokenizer import VOCAB_SIZE

NAME = "sage-tiny"
SHAPE = ModelShape(
    vocab_size=VOCAB_SIZE,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)


class Interrupted(Exception):
    """Ends a run from outside, as Ctrl-C does."""


class Training:
    """Runs of the program in one folder, each interrupted in the update that it has to make last."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work, self.out, self.monkeypatch = folder / "work", folder / "out", monkeypatch
        self.weights: list[torch.Tensor] = []
        self.work.mkdir()
        (self.out / NAME).mkdir(parents=True)
        shutil.copy(BUILTIN_FOLDER / NAME / "tokenizer.json", self.out / NAME)

    def run(self, *, minutes: float = 1000.0, updates: int = 0) -> None:
        """Run until the time is spent, or until so many updates are made and another one is due."""
        update, self.weights = train.update, []

        def counted(model: Llama, optimizers: list[Optimizer]) -> None:
            self.weights.append(model.model.embed_tokens.weight.detach().clone())
            if len(self.weights) > updates:
                raise Interrupted
            update(model, optimizers)

        options = argparse.Namespace(name=NAME, minutes=minutes, work=self.work, out=self.out, processes=1)
        with self.monkeypatch.context() as patch:
            patch.setattr(train, "update", counted)
            train.run_process(0, options, self.work / "meeting")

    def checkpoint(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = torch.load(self.work / f"{NAME}.pt", weights_only=True)
        return found


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Training]:
    """Steps of a few tokens for a model of two narrow layers, a checkpoint after each of them."""
    monkeypatch.setitem(train.SHAPES, NAME, SHAPE)
    monkeypatch.setattr(data, "DOCUMENTS_A_SHARD", 100)
    monkeypatch.setattr(train, "TOKENS_A_STEP", 512)
    monkeypatch.setattr(train, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    threads = torch.get_num_threads()
    yield Training(tmp_path, monkeypatch)
    torch.set_num_threads(threads)


def test_an_interrupted_run_goes_on_at_its_step(training: Training) -> None:
    """The second run begins with the first one's weights, step and tokens, and reads documents that are new to it."""
    with pytest.raises(Interrupted):
        training.run(updates=4)
    first = training.checkpoint()
    assert first["progress"]["steps"] == 4
    with pytest.raises(Interrupted):
        training.run(updates=3)
    second = training.checkpoint()
    assert torch.equal(training.weights[0], first["model"]["model.embed_tokens.weight"])
    assert not torch.equal(training.weights[1], training.weights[0])
    assert second["progress"]["steps"] == 7
    for counter in ("tokens", "seconds", "shard"):
        assert second["progress"][counter] > first["progress"][counter]
    training.run(minutes=0.0)
    report = json.loads((training.out / NAME / "training.json").read_text())
    assert (report["steps"], report["tokens"]) == (7, second["progress"]["tokens"])
    assert (training.out / NAME / "model.safetensors").is_file()
