"""From a step's logits to its result: what the runners that compute logits share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sagellm_engine.core.runner import StepResult
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.sampling.sampler import Sampled, sample

Sampler = Callable[[Tensor, Sequence[SequenceState]], Sampled]


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """The sequences of a step that reach their last token, by their place, and the step's row where each ends."""

    sequences: list[int]
    last_rows: list[int]

    def divided(self, belongs: Callable[[int], bool]) -> "tuple[SamplingRows, SamplingRows]":
        """Return those whose place belongs, and the others."""
        found = SamplingRows([], []), SamplingRows([], [])
        for place, row in zip(self.sequences, self.last_rows, strict=True):
            part = found[0 if belongs(place) else 1]
            part.sequences.append(place)
            part.last_rows.append(row)
        return found


def sampling_rows(rows: Sequence[SequenceState]) -> SamplingRows:
    """Find the sequences that sample."""
    found, end = SamplingRows([], []), 0
    for place, seq in enumerate(rows):
        end += seq.num_scheduled
        if seq.samples:
            found.sequences.append(place)
            found.last_rows.append(end - 1)
    return found


def sampled_step(
    logits_RV: Tensor, rows: Sequence[SequenceState], sampling: Sequence[int], sample: Sampler = sample
) -> StepResult:
    """Sample the sequences at the places `sampling`, whose logits these are."""
    token_ids = [0] * len(rows)
    if not sampling:
        return StepResult(token_ids)
    sampled = sample(logits_RV, [rows[place] for place in sampling])
    for place, token in zip(sampling, sampled.token_ids, strict=True):
        token_ids[place] = token
    return StepResult(
        token_ids,
        logprobs={sampling[i]: entry for i, entry in sampled.logprobs.items()},
        errors={sampling[i]: error for i, error in sampled.errors.items()},
    )
