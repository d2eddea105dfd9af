"""Which tokens survive min-p, top-k and top-p: a threshold per row, found without sorting the vocabulary.

The order is min-p, then top-k, then top-p over what is left. A token as likely as the least likely survivor survives
with it, so that the outcome does not depend on the order of equals.

Legend: R rows, C candidates of a row, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sagellm_engine.core.types import SamplingParams

FIRST_CANDIDATES = 64
GROWTH = 8


@dataclass(slots=True)
class Survivors:
    """Candidates in falling order: `ids` and `scores` (logits / temperature), −inf where one does not survive."""

    ids_RC: Tensor
    scores_RC: Tensor


@dataclass(slots=True)
class Limits:
    """The limits of each row: `top_k` is V where there is none; float tensors are [R, 1]."""

    log_min_p: Tensor
    top_k: Tensor
    top_p: Tensor
    largest_top_k: int


def row_limits(params: Sequence[SamplingParams], vocab_size: int, device: torch.device) -> Limits:
    """Gather the rows' limits."""
    top_k = [min(p.top_k, vocab_size) if p.top_k else vocab_size for p in params]
    min_p = torch.tensor([p.min_p for p in params], device=device)
    return Limits(
        log_min_p=min_p.log()[:, None],
        top_k=torch.tensor(top_k, device=device)[:, None],
        top_p=torch.tensor([p.top_p for p in params], device=device)[:, None],
        largest_top_k=max((k for k in top_k if k < vocab_size), default=0),
    )


def select_survivors(scores_RV: Tensor, limits: Limits) -> Survivors:
    """Find the survivors among the largest scores, looking at more until none can be left out."""
    vocab_size = scores_RV.shape[1]
    floor = scores_RV.amax(dim=1, keepdim=True) + limits.log_min_p
    mass = _mass_above(scores_RV, floor)
    num_candidates = min(max(FIRST_CANDIDATES, limits.largest_top_k + 1), vocab_size)
    while True:
        scores, ids = scores_RV.topk(num_candidates, dim=1)
        threshold = _threshold(scores, floor, mass, limits, vocab_size)
        if num_candidates == vocab_size or not bool((scores[:, -1:] >= threshold).any()):
            return Survivors(ids, scores.masked_fill(scores < threshold, float("-inf")))
        num_candidates = min(num_candidates * GROWTH, vocab_size)


def _mass_above(scores_RV: Tensor, floor: Tensor) -> Tensor:
    weights = torch.exp(scores_RV - scores_RV.amax(dim=1, keepdim=True))
    return weights.masked_fill(scores_RV < floor, 0.0).sum(dim=1, keepdim=True)


def _threshold(scores_RC: Tensor, floor: Tensor, mass: Tensor, limits: Limits, vocab_size: int) -> Tensor:
    """Return the least surviving score per row [R, 1]; −inf where the candidates do not reach it."""
    num_candidates = scores_RC.shape[1]
    has_top_k = limits.top_k < vocab_size
    last = (limits.top_k - 1).clamp(max=num_candidates - 1)
    kth = scores_RC.gather(1, last).masked_fill(~has_top_k, float("-inf"))
    floor = torch.maximum(floor, kth)
    weights = torch.exp(scores_RC - scores_RC[:, :1]).masked_fill(scores_RC < floor, 0.0)
    mass = torch.where(has_top_k, weights.sum(dim=1, keepdim=True), mass)
    before = weights.cumsum(dim=1) - weights
    inside = before < limits.top_p * mass
    num_inside = inside.sum(dim=1, keepdim=True)
    boundary = scores_RC.gather(1, num_inside - 1)
    reached = (num_inside < num_candidates) & (limits.top_p < 1.0)
    return torch.maximum(floor, boundary.masked_fill(~reached, float("-inf")))
