"""Several training processes with one thread each, which share their gradients once a step.

On a machine that does other work too, this loses less than threads do: they wait for each other at every operation.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Group:
    """The processes of a run; a group of one needs no communication."""

    def __init__(self, rank: int, size: int, meeting_point: Path) -> None:
        self.rank, self.size = rank, size
        if size > 1:
            dist.init_process_group(
                "gloo", init_method=f"file://{meeting_point.absolute()}", rank=rank, world_size=size
            )

    @property
    def leads(self) -> bool:
        """Whether this process keeps the time and writes the files."""
        return self.rank == 0

    def share(self, model: nn.Module, numbers: list[float]) -> list[float]:
        """Averages the gradients over the group, and gives the sums of the numbers."""
        if self.size == 1:
            return numbers
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([*(g.reshape(-1) for g in gradients), torch.tensor(numbers)])
        dist.all_reduce(flat)
        self._spread(flat / self.size, gradients)
        return [float(number) for number in flat[-len(numbers) :]]

    @staticmethod
    def _spread(flat: Tensor, gradients: list[Tensor]) -> None:
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()
