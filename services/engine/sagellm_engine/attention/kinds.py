"""An implementation of attention together with the layout of a step that it reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sagellm_engine.attention.batch import build_batch
from sagellm_engine.attention.protocol import Attention, StepLayout
from sagellm_engine.attention.sdpa import sdpa_attention
from sagellm_engine.attention.tiled import build_tiled_batch, tiled_attention
from sagellm_engine.core.sequence import SequenceState

BuildLayout = Callable[[Sequence[SequenceState], int, torch.dtype, torch.device], StepLayout]
"""Lays out sequences, given the null page."""


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """`build` lays a step out, `attend` computes over such a layout."""

    build: BuildLayout
    attend: Attention[Any]


FAST = AttentionKind(build_batch, sdpa_attention)
"""As torch is fastest; the bits of a row may depend on the step it is in."""
INVARIANT = AttentionKind(build_tiled_batch, tiled_attention)
"""The same bits for a row in any step."""
