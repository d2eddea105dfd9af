"""What is done to logits before a token is chosen: penalties, bias, and no early end."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from sagellm_engine.core.sequence import SequenceState


def adjust_logits(logits_RV: Tensor, rows: Sequence[SequenceState]) -> None:
    """Apply each row's repetition penalty, presence and frequency penalties, bias and `min_tokens`, in place.

    The repetition penalty (Keskar et al. 2019, arXiv:1909.05858) counts prompt and output, the other two the output
    alone, as OpenAI defines them.
    """
    for row, seq in enumerate(rows):
        sampling = seq.sampling
        if sampling.repetition_penalty != 1.0:
            _repetition(logits_RV[row], seq.tokens, sampling.repetition_penalty)
        if sampling.presence_penalty or sampling.frequency_penalty:
            _presence_frequency(logits_RV[row], seq)
        if sampling.logit_bias:
            _add(logits_RV[row], list(sampling.logit_bias), list(sampling.logit_bias.values()))
        if seq.num_output < sampling.min_tokens and seq.stop_ids:
            logits_RV[row, torch.tensor(sorted(seq.stop_ids), device=logits_RV.device)] = float("-inf")


def needs_adjustment(seq: SequenceState) -> bool:
    """Return whether `adjust_logits` would change a row."""
    sampling = seq.sampling
    return bool(
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty
        or sampling.frequency_penalty
        or sampling.logit_bias
        or seq.num_output < sampling.min_tokens
    )


def _repetition(logits_V: Tensor, tokens: Sequence[int], penalty: float) -> None:
    ids = torch.tensor(sorted(set(tokens)), device=logits_V.device)
    values = logits_V[ids]
    logits_V[ids] = torch.where(values > 0, values / penalty, values * penalty)


def _presence_frequency(logits_V: Tensor, seq: SequenceState) -> None:
    counts = Counter(seq.tokens[seq.num_prompt :])
    sampling = seq.sampling
    penalties = [-sampling.presence_penalty - sampling.frequency_penalty * count for count in counts.values()]
    _add(logits_V, list(counts), penalties)


def _add(logits_V: Tensor, ids: list[int], values: list[float]) -> None:
    if ids:
        index = torch.tensor(ids, device=logits_V.device)
        logits_V[index] += torch.tensor(values, dtype=logits_V.dtype, device=logits_V.device)
