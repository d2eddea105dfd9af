"""What a training run keeps on disk, so that it goes on where it was stopped."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.optim import Optimizer

from builtin_model.model import Llama


@dataclass
class Progress:
    """How far a run has come."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    shard: int = 0
    loss: float = float("nan")


def save_checkpoint(path: Path, model: Llama, optimizers: list[Optimizer], progress: Progress) -> None:
    """Writes a checkpoint; a run that is killed meanwhile leaves the one before whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "progress": asdict(progress),
    }
    torch.save(state, partial)
    partial.replace(path)


def load_checkpoint(path: Path, model: Llama, optimizers: list[Optimizer]) -> Progress:
    """Restores a run; a path that does not exist means a run that begins."""
    if not path.exists():
        return Progress()
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(**state["progress"])
