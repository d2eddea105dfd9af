"""Engines in turn."""

import numpy as np

from sagellm_common.contracts.scheduling import Submit
from sagellm_scheduler.routing.router import Candidates, Choice


class RoundRobin:
    """The engine whose last assignment is longest ago; a new engine comes next."""

    name = "round_robin"

    def choose(self, submit: Submit, candidates: Candidates) -> Choice:
        return Choice(int(np.argmin(candidates.last_turn)), f"next in turn of {len(candidates)} with room")
