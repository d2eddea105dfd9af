"""Muon for the matrices inside the layers, AdamW for the embedding and the norms."""

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

WARMUP, DECAY_FROM, LAST = 0.01, 0.4, 0.01
MUON_RATE, ADAM_RATE = 0.008, 0.002


def rate_factor(progress: float) -> float:
    """The share of the learning rate at a progress from 0 to 1: up, level, then straight down."""
    if progress < WARMUP:
        return max(progress / WARMUP, 0.01)
    if progress < DECAY_FROM:
        return 1.0
    return max(LAST, 1.0 - (progress - DECAY_FROM) / (1.0 - DECAY_FROM))


def build_optimizers(model: nn.Module) -> list[Optimizer]:
    """Optimizers for all parameters (Muon: Jordan et al., 2024)."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    return [
        Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.01),
        AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def set_progress(optimizers: list[Optimizer], progress: float) -> None:
    """Sets the learning rates for a progress from 0 to 1."""
    for optimizer in optimizers:
        rate = MUON_RATE if isinstance(optimizer, Muon) else ADAM_RATE
        for group in optimizer.param_groups:
            group["lr"] = rate * rate_factor(progress)
