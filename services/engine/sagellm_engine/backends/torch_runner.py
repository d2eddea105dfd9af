"""The runner on torch: lays a step out as tensors, runs the decoder, samples."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sagellm_engine.attention.kinds import AttentionKind
from sagellm_engine.backends.sampled_step import sampled_step, sampling_rows
from sagellm_engine.core.runner import StepResult
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.core.types import ModelInfo
from sagellm_engine.kv.cache import KvCache
from sagellm_engine.models.decoder import Decoder
from sagellm_engine.transfer.layout import KvLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchPlace:
    """Where and how a runner computes."""

    device: torch.device
    dtype: torch.dtype
    max_batch_tokens: int
    attention: AttentionKind


class TorchRunner:
    """Owns the decoder and the KV cache."""

    def __init__(self, decoder: Decoder, cache: KvCache, info: ModelInfo, place: TorchPlace) -> None:
        self.info = info
        self.max_batch_tokens = place.max_batch_tokens
        self._decoder: Decoder | None = decoder
        self._cache: KvCache | None = cache
        self._place = place

    @torch.inference_mode()
    def execute(self, rows: Sequence[SequenceState]) -> StepResult:
        """Compute the rows and sample those that reach their last token."""
        decoder, cache = self._loaded()
        hidden = self._forward(rows, decoder, cache)
        if self._place.device.type == "cuda" and any(seq.request.hold for seq in rows):
            torch.cuda.current_stream(self._place.device).synchronize()  # another engine reads these pages next
        sampling = sampling_rows(rows)
        if not sampling.sequences:
            return StepResult([0] * len(rows))
        if len(sampling.last_rows) != len(hidden):
            hidden = hidden[torch.tensor(sampling.last_rows, device=hidden.device)]
        return sampled_step(decoder.logits(hidden), rows, sampling.sequences)

    @torch.inference_mode()
    def all_logits(self, row: SequenceState) -> Tensor:
        """Return the logits [scheduled tokens, V] of one row: for tests and for scoring."""
        decoder, cache = self._loaded()
        return decoder.logits(self._forward([row], decoder, cache))

    @torch.inference_mode()
    def clear_pages(self, pages: Iterable[int]) -> None:
        """Set pages to zero."""
        self._loaded()[1].clear(pages)

    def kv_layout(self, model: str) -> KvLayout:
        """Describe the memory of the pages; `model` is the hash of the weights."""
        return self._loaded()[1].layout(model)

    def close(self) -> None:
        """Let go of weights and pages."""
        self._decoder = self._cache = None

    def _loaded(self) -> tuple[Decoder, KvCache]:
        if self._decoder is None or self._cache is None:
            raise RuntimeError("the runner is closed")
        return self._decoder, self._cache

    def _forward(self, rows: Sequence[SequenceState], decoder: Decoder, cache: KvCache) -> Tensor:
        place = self._place
        tokens: list[int] = []
        positions: list[int] = []
        for seq in rows:
            start, stop = seq.num_computed, seq.num_computed + seq.num_scheduled
            tokens.extend(seq.tokens[start:stop])
            positions.extend(range(start, stop))
        batch = place.attention.build(rows, cache.null_page, place.dtype, place.device)
        return decoder.forward(
            torch.tensor(tokens, device=place.device), torch.tensor(positions, device=place.device), cache, batch
        )
