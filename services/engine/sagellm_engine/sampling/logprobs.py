"""Log-probabilities of chosen tokens and their likeliest alternatives, under the model's own distribution."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sagellm_engine.core.types import TokenLogprobs


def token_logprobs(logits_RV: Tensor, chosen: Sequence[int], wanted: Mapping[int, int]) -> dict[int, TokenLogprobs]:
    """Return the entries of the rows in `wanted` (row → number of alternatives); `logits_RV` are unadjusted."""
    if not wanted:
        return {}
    rows = list(wanted)
    logprobs = torch.log_softmax(logits_RV[torch.tensor(rows, device=logits_RV.device)], dim=1)
    ids = torch.tensor([chosen[row] for row in rows], device=logits_RV.device)[:, None]
    own = logprobs.gather(1, ids)[:, 0].tolist()
    values, indices = logprobs.topk(min(max(wanted.values()), logprobs.shape[1]), dim=1)
    return {
        row: TokenLogprobs(
            own[i], tuple(zip(indices[i, : wanted[row]].tolist(), values[i, : wanted[row]].tolist(), strict=True))
        )
        for i, row in enumerate(rows)
    }
