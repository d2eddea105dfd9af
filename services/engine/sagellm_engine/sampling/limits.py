"""Which tokens survive min-p, top-k and top-p: a threshold per row, found without sorting the vocabulary.

The order is min-p, then top-k, then top-p over what is left. A token as likely as the least likely survivor survives
with it, so that the outcome does not depend on the order of equals.

Legend: R rows, C candidates of a row, V vocabulary. Scores are logits / temperature, weights exp(score − best score).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sagellm_engine.core.types import SamplingParams

FIRST_CANDIDATES = 64
"""The nucleus of a trained model is mostly smaller than this."""
NUM_BISECTIONS = 10
"""Halvings of the interval that holds the end of a large nucleus; about ten nats become a hundredth of one."""


@dataclass(slots=True)
class Limits:
    """The limits of each row, [R, 1]: `top_k` is V and `top_p` 1 where there is none, `log_min_p` −inf."""

    log_min_p: Tensor
    top_k: Tensor
    top_p: Tensor
    largest_top_k: int
    any_top_p: bool


def row_limits(params: Sequence[SamplingParams], vocab_size: int, device: torch.device) -> Limits:
    """Gather the rows' limits."""
    top_k = [min(p.top_k, vocab_size) if p.top_k else vocab_size for p in params]
    return Limits(
        log_min_p=torch.tensor([[p.min_p] for p in params], device=device).log(),
        top_k=torch.tensor(top_k, device=device)[:, None],
        top_p=torch.tensor([[p.top_p] for p in params], device=device),
        largest_top_k=max((k for k in top_k if k < vocab_size), default=0),
        any_top_p=any(p.top_p < 1.0 for p in params),
    )


def least_surviving(scores_RV: Tensor, best_R1: Tensor, limits: Limits) -> Tensor:
    """Return the threshold per row [R, 1]: tokens with at least this score survive. `best_R1` are the rows' maxima."""
    floor = best_R1 + limits.log_min_p
    if not (limits.largest_top_k or limits.any_top_p):
        return floor
    vocab_size = scores_RV.shape[1]
    top = scores_RV.topk(min(max(FIRST_CANDIDATES, limits.largest_top_k), vocab_size), dim=1).values
    has_top_k = limits.top_k < vocab_size
    kth = top.gather(1, (limits.top_k - 1).clamp(max=top.shape[1] - 1))
    floor = torch.maximum(floor, kth.masked_fill(~has_top_k, float("-inf")))
    return _nucleus(scores_RV, best_R1, floor, top, limits.top_p) if limits.any_top_p else floor


def _nucleus(scores_RV: Tensor, best_R1: Tensor, floor: Tensor, top_RC: Tensor, top_p: Tensor) -> Tensor:
    """Raise the floor to the end of each row's nucleus, which mostly lies among the largest scores."""
    weights_RV = torch.exp(scores_RV - best_R1).masked_fill_(scores_RV < floor, 0.0)
    wanted = top_p * weights_RV.sum(dim=1, keepdim=True)
    boundary, found = _boundary(top_RC, torch.exp(top_RC - best_R1).masked_fill_(top_RC < floor, 0.0), wanted)
    limited = top_p < 1.0
    threshold = torch.maximum(floor, boundary.masked_fill(~limited, float("-inf")))
    open_rows = (limited & ~found & (top_RC[:, -1:] > floor))[:, 0].nonzero()[:, 0]
    if len(open_rows):
        part = (scores_RV, weights_RV, top_RC[:, -1:], wanted, top_p)
        threshold[open_rows] = torch.maximum(floor[open_rows], _bisect(*(table[open_rows] for table in part)))
    return threshold


def _boundary(values_RC: Tensor, weights_RC: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Walk down sorted values until their weights reach what is wanted; return the last value taken, and if reached."""
    total = weights_RC.cumsum(dim=1)
    num_inside = ((total - weights_RC) < wanted).sum(dim=1, keepdim=True)
    reached = (num_inside < values_RC.shape[1]) | (total[:, -1:] >= wanted)
    return values_RC.gather(1, (num_inside - 1).clamp(min=0)), reached


def _bisect(scores_RV: Tensor, weights_RV: Tensor, high: Tensor, wanted: Tensor, top_p: Tensor) -> Tensor:
    """Narrow down where a large nucleus ends, then walk through the few scores that are left in the interval.

    Below `low` all tokens together weigh less than what may be left out, were they all as likely as `low`.
    """
    best_weight_left = (wanted / top_p - wanted).clamp(min=0.0) / scores_RV.shape[1]
    best = scores_RV.amax(dim=1, keepdim=True)
    low = torch.minimum(best + best_weight_left.log(), high)
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        enough = weights_RV.masked_fill(scores_RV < middle, 0.0).sum(dim=1, keepdim=True) >= wanted
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    above = scores_RV >= high
    inside = ~above & (scores_RV >= low)
    num_inside = max(int(inside.sum(dim=1).max()), 1)
    values, ids = scores_RV.masked_fill(~inside, float("-inf")).topk(num_inside, dim=1)
    weights = weights_RV.gather(1, ids).masked_fill(values == float("-inf"), 0.0)
    missing = wanted - weights_RV.masked_fill(~above, 0.0).sum(dim=1, keepdim=True)
    boundary, reached = _boundary(values, weights, missing)
    return torch.where(reached & (boundary >= low), boundary, low)
