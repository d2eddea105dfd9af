"""The seam between the step loop and what computes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sagellm_common.errors import SageError
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.core.types import ModelInfo, TokenLogprobs
from sagellm_engine.transfer.layout import KvLayout


@dataclass(slots=True)
class StepResult:
    """What a runner made of the rows it got, in their order.

    `token_ids` has one entry per row; those of rows that do not sample mean nothing. `logprobs` holds entries for
    rows that asked for them, `errors` those rows that failed alone; both by row index.
    """

    token_ids: list[int]
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    errors: dict[int, SageError] = field(default_factory=dict)


class Runner(Protocol):
    """Computes the rows of a step and chooses the next token of those that reach the end of their tokens.

    `execute` may block as long as the computation takes; what it wrote of rows with `request.hold` is in memory when it
    returns. Of the sequences it changes only `runner_state`; it
    writes KV pages only at the positions that a row covers, so that it can be called again for the same rows. A fault
    of single rows is returned; an exception means that the whole call failed and no row has a result.
    """

    @property
    def info(self) -> ModelInfo:
        """What was loaded; constant."""
        ...

    @property
    def max_batch_tokens(self) -> int:
        """The token budget of a step that suits the device."""
        ...

    def execute(self, rows: Sequence[SequenceState]) -> StepResult:
        """Compute `row.num_scheduled` tokens of each row from `row.num_computed` on."""
        ...

    def kv_layout(self, model: str) -> KvLayout:
        """Describe the memory of the pages, for engines that read it; `model` is the hash of the weights."""
        ...

    def clear_pages(self, pages: Iterable[int]) -> None:
        """Overwrite pages that may hold values which are not finite."""
        ...

    def close(self) -> None:
        """Give back memory; nothing may be called afterwards."""
        ...
