"""Logits to tokens for all rows of a step. Legend: R rows, C candidates of a row, V vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sagellm_common.errors import Internal, SageError
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.core.types import TokenLogprobs
from sagellm_engine.sampling.adjust import adjust_logits, needs_adjustment
from sagellm_engine.sampling.limits import least_surviving, row_limits
from sagellm_engine.sampling.logprobs import token_logprobs
from sagellm_engine.sampling.noise import MAX_NOISE, MIN_NOISE, gumbel_all, gumbel_at, noise_source

GREEDY_BELOW = 1e-5
"""Temperatures below this choose the likeliest token: divided by it, fp32 logits lose their differences."""
MAX_SPARSE = 4
"""Noise for single ids is worth it up to one id in this many; beyond, the whole vocabulary costs no more."""


@dataclass(slots=True)
class Sampled:
    """One token per row; rows in `errors` have none."""

    token_ids: list[int]
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    errors: dict[int, SageError] = field(default_factory=dict)


def sample(logits_RV: Tensor, rows: Sequence[SequenceState]) -> Sampled:
    """Choose the next token of each row. A row's outcome depends on its own logits and options alone.

    `logits_RV` is fp32 and may be changed. A row whose logits have a NaN, or no finite maximum, is an error.
    """
    best, token_ids = logits_RV.max(dim=1)
    errors = _faults(logits_RV, best)
    wanted = {
        row: seq.sampling.logprobs
        for row, seq in enumerate(rows)
        if seq.sampling.logprobs is not None and row not in errors
    }
    raw = logits_RV.clone() if wanted else logits_RV
    adjusted = [row for row, seq in enumerate(rows) if needs_adjustment(seq)]
    if adjusted:
        _adjust(logits_RV, rows, adjusted)
        token_ids = logits_RV.argmax(dim=1)
    random = [row for row, seq in enumerate(rows) if seq.sampling.temperature >= GREEDY_BELOW]
    if random:
        index = torch.tensor(random, device=logits_RV.device)
        token_ids[index] = _draw(logits_RV[index], [rows[row] for row in random])
    chosen: list[int] = token_ids.tolist()
    return Sampled(chosen, token_logprobs(raw, chosen, wanted), errors)


def _faults(logits_RV: Tensor, best_R: Tensor) -> dict[int, SageError]:
    """Find rows without a finite maximum (a NaN is the maximum of its row) and make them harmless."""
    finite = torch.isfinite(best_R)
    if bool(finite.all()):
        return {}
    bad = (~finite).nonzero()[:, 0].tolist()
    logits_RV[bad] = 0.0
    return {row: Internal("the model's output was not a number for this request") for row in bad}


def _adjust(logits_RV: Tensor, rows: Sequence[SequenceState], adjusted: list[int]) -> None:
    index = torch.tensor(adjusted, device=logits_RV.device)
    part = logits_RV[index]
    adjust_logits(part, [rows[row] for row in adjusted])
    logits_RV[index] = part


def _draw(logits_RV: Tensor, rows: Sequence[SequenceState]) -> Tensor:
    """Draw by the Gumbel-max trick: the largest score with noise is a sample of the softmax over the survivors.

    Noise is bounded, so that a score far below the best can never win and needs none.
    """
    device, vocab_size = logits_RV.device, logits_RV.shape[1]
    scores = logits_RV / torch.tensor([[seq.sampling.temperature] for seq in rows], device=device)
    best = scores.amax(dim=1, keepdim=True)
    threshold = least_surviving(scores, best, row_limits([seq.sampling for seq in rows], vocab_size, device))
    threshold = torch.maximum(threshold, best + (MIN_NOISE - MAX_NOISE))
    source = noise_source(rows, device)
    num_candidates = int((scores >= threshold).sum(dim=1).max())
    if num_candidates * MAX_SPARSE > vocab_size:
        noisy = (scores + gumbel_all(source, vocab_size)).masked_fill_(scores < threshold, float("-inf"))
        return noisy.argmax(dim=1)
    values, ids = scores.topk(num_candidates, dim=1)
    noisy = (values + gumbel_at(source, ids)).masked_fill_(values < threshold, float("-inf"))
    return ids.gather(1, noisy.argmax(dim=1, keepdim=True))[:, 0]
