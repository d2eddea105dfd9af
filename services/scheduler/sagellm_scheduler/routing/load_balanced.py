"""The least loaded engine."""

from sagellm_common.contracts.scheduling import Submit
from sagellm_scheduler.routing.router import Candidates, Choice


class LoadBalanced:
    """Smallest share of sequence slots and KV tokens in use; equal ones take turns."""

    name = "load_balanced"

    def choose(self, submit: Submit, candidates: Candidates) -> Choice:
        index = candidates.least_loaded()
        return Choice(index, f"least loaded of {len(candidates)} with room ({candidates.load[index]:.2f})")
