"""Logits to tokens by the library's sampler; see csrc/sampler.h."""

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sagellm_common.errors import Internal
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.core.types import TokenLogprobs
from sagellm_engine.native.abi import Sampled, Sampling
from sagellm_engine.native.library import library
from sagellm_engine.sampling.sampler import Sampled as SampledRows

GREEDY_BELOW = 1e-5
"""Temperatures below count as 0."""


def wants_likeliest(seq: SequenceState) -> bool:
    """Return whether a sequence asks for the token with the largest logit, and for nothing else that logits tell."""
    params = seq.sampling
    return (
        params.temperature < GREEDY_BELOW
        and params.logprobs is None
        and not (params.presence_penalty or params.frequency_penalty or params.logit_bias or params.min_tokens)
        and params.repetition_penalty == 1.0
    )


def native_sample(logits_RV: Tensor, rows: Sequence[SequenceState]) -> SampledRows:
    """Choose the next token of each row; the twin of `sagellm_engine.sampling.sampler.sample`, for contiguous fp32.

    What stays the same of a sequence's options is kept in its `runner_state`.
    """
    num_rows, vocab_size = logits_RV.shape
    alive: list[NDArray[np.generic]] = []
    options = (Sampling * num_rows)(*[_options(seq, alive) for seq in rows])
    sampled = (Sampled * num_rows)()
    library().sage_sample(options, num_rows, logits_RV.data_ptr(), vocab_size, sampled)
    del alive  # until here: the options point into them
    result = SampledRows([row.token for row in sampled])
    for place, (row, option) in enumerate(zip(sampled, options, strict=True)):
        if row.token < 0:
            result.token_ids[place] = 0
            result.errors[place] = not_a_number()
        elif option.num_logprobs >= 0:
            top = zip(row.top[: row.num_top], row.top_logprobs[: row.num_top], strict=True)
            result.logprobs[place] = TokenLogprobs(row.logprob, tuple(top))
    return result


def not_a_number() -> Internal:
    """The fault of a row whose logits are not numbers."""
    return Internal("the model's output was not a number for this request")


class _Row:
    """What is kept of a sequence from step to step: its options and, where penalties ask for them, its tokens."""

    __slots__ = ("options", "tokens")

    def __init__(self, seq: SequenceState) -> None:
        self.options = _lasting_options(seq)
        self.tokens = array("i")


def _options(seq: SequenceState, alive: list[NDArray[np.generic]]) -> Sampling:
    """Describe one row; arrays that it points into are put into `alive`."""
    row = seq.runner_state
    if not isinstance(row, _Row):
        row = seq.runner_state = _Row(seq)
    options, params = row.options, seq.sampling
    options.position = len(seq.tokens)
    if params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty:
        row.tokens.extend(seq.tokens[len(row.tokens) :])
        options.tokens, options.num_tokens = row.tokens.buffer_info()
        options.num_prompt = seq.num_prompt
    if params.logit_bias or params.min_tokens:
        _add_bias(options, seq, alive)
    return options


def _lasting_options(seq: SequenceState) -> Sampling:
    params = seq.sampling
    return Sampling(
        temperature=params.temperature,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition=params.repetition_penalty,
        presence=params.presence_penalty,
        frequency=params.frequency_penalty,
        top_k=params.top_k,
        num_logprobs=-1 if params.logprobs is None else params.logprobs,
        seed=params.seed & (1 << 64) - 1,
        stream=seq.choice,
    )


def _add_bias(options: Sampling, seq: SequenceState, alive: list[NDArray[np.generic]]) -> None:
    bias = dict(seq.sampling.logit_bias)
    if seq.num_output < seq.sampling.min_tokens:
        bias.update(dict.fromkeys(seq.stop_ids, float("-inf")))
    ids, values = np.array(list(bias), np.int32), np.array(list(bias.values()), np.float32)
    alive += [ids, values]
    options.bias_ids, options.bias, options.num_bias = ids.ctypes.data, values.ctypes.data, len(bias)
