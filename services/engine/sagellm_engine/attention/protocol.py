"""The contract of an attention implementation."""

from typing import Protocol, TypeVar

from torch import Tensor


class StepLayout(Protocol):
    """What every layout of a step has: `slots` [T], where each row's key and value go: page × 16 + place in it."""

    slots: Tensor


Layout = TypeVar("Layout", bound=StepLayout, contravariant=True)


class Attention(Protocol[Layout]):
    """Causal attention of a step's rows over their sequences' pages; reads only."""

    def __call__(
        self, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor, k_pages: Tensor, v_pages: Tensor, batch: Layout
    ) -> Tensor:
        """Return [T, N, D]. The step's own keys and values come as rows and are in the pages [pages, 16, K, D] too."""
        ...


def write_pages(k_TKD: Tensor, v_TKD: Tensor, k_pages: Tensor, v_pages: Tensor, batch: StepLayout) -> None:
    """Put a step's keys and values into their pages [pages, 16, K, D]."""
    k_pages.view(-1, *k_pages.shape[2:]).index_copy_(0, batch.slots, k_TKD)
    v_pages.view(-1, *v_pages.shape[2:]).index_copy_(0, batch.slots, v_TKD)
