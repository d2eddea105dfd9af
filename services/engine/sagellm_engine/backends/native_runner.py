"""The runner on our CPU kernels."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sagellm_engine.backends.sampled_step import sampled_step, sampling_rows
from sagellm_engine.core.runner import StepResult
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.core.types import ModelInfo
from sagellm_engine.native.abi import Phase
from sagellm_engine.native.model import NativeModel
from sagellm_engine.native.sampling import native_sample, not_a_number, wants_likeliest
from sagellm_engine.transfer.layout import KvLayout


class NativeRunner:
    """Owns the model with its pages."""

    def __init__(self, model: NativeModel, info: ModelInfo, max_batch_tokens: int) -> None:
        self.info = info
        self.max_batch_tokens = max_batch_tokens
        self._model: NativeModel | None = model

    def execute(self, rows: Sequence[SequenceState]) -> StepResult:
        """Compute the rows and sample those that reach their last token."""
        model, sampling = self._loaded(), sampling_rows(rows)
        if not model.screens:
            return sampled_step(model.forward(rows, sampling.last_rows), rows, sampling.sequences, native_sample)
        likeliest, others = sampling.divided(lambda place: wants_likeliest(rows[place]))
        logits, tokens = model.step(rows, others.last_rows, likeliest.last_rows)
        result = sampled_step(logits, rows, others.sequences, native_sample)
        for place, token in zip(likeliest.sequences, tokens, strict=True):
            if token < 0:
                result.errors[place] = not_a_number()
            else:
                result.token_ids[place] = token
        return result

    def all_logits(self, row: SequenceState) -> Tensor:
        """Return the logits [scheduled tokens, V] of one row: for tests and for scoring."""
        return self._loaded().forward([row], range(row.num_scheduled)).clone()

    @property
    def packed_bytes(self) -> int:
        """Size of the packed weights."""
        return self._loaded().packed_bytes

    @property
    def greedy_bytes(self) -> int:
        """Size of what a step of greedy requests reads of them."""
        return self._loaded().greedy_bytes

    @property
    def screens(self) -> bool:
        """Whether greedy requests get their tokens without all logits."""
        return self._loaded().screens

    @property
    def kv_memory(self) -> tuple[int, int]:
        """Address and bytes of the memory of the pages."""
        kv = self._loaded().kv
        return kv.address, kv.num_bytes

    def kv_layout(self, model: str) -> KvLayout:
        """Describe the memory of the pages; `model` is the hash of the weights."""
        native = self._loaded()
        return native.kv.layout(model, f"even-{native.weight_kind.name.lower()}")

    def count_seconds(self) -> NDArray[np.float64]:
        """From now on, count what each part of the steps takes; return the sums [len(Phase)], which grow."""
        seconds = np.zeros(len(Phase))
        self._loaded().seconds = seconds
        return seconds

    def clear_pages(self, pages: Iterable[int]) -> None:
        """Set pages to zero."""
        self._loaded().kv.clear(pages)

    def close(self) -> None:
        """Let go of weights and pages."""
        self._model = None

    def _loaded(self) -> NativeModel:
        if self._model is None:
            raise RuntimeError("the runner is closed")
        return self._model
