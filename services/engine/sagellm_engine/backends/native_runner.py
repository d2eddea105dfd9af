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
from sagellm_engine.native.sampling import native_sample
from sagellm_engine.transfer.layout import KvLayout


class NativeRunner:
    """Owns the model with its pages."""

    def __init__(self, model: NativeModel, info: ModelInfo, max_batch_tokens: int) -> None:
        self.info = info
        self.max_batch_tokens = max_batch_tokens
        self._model: NativeModel | None = model

    def execute(self, rows: Sequence[SequenceState]) -> StepResult:
        """Compute the rows and sample those that reach their last token."""
        sampling = sampling_rows(rows)
        logits = self._loaded().forward(rows, sampling.last_rows)
        return sampled_step(logits, rows, sampling.sequences, native_sample)

    def all_logits(self, row: SequenceState) -> Tensor:
        """Return the logits [scheduled tokens, V] of one row: for tests and for scoring."""
        return self._loaded().forward([row], range(row.num_scheduled)).clone()

    @property
    def packed_bytes(self) -> int:
        """Size of the packed weights."""
        return self._loaded().packed_bytes

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
