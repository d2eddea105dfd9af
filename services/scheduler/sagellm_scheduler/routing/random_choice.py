"""An engine drawn by chance."""

import random

from sagellm_common.contracts.scheduling import Submit
from sagellm_scheduler.routing.router import Candidates, Choice


class RandomChoice:
    """Every candidate with the same probability; the same seed draws the same sequence."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def choose(self, submit: Submit, candidates: Candidates) -> Choice:
        return Choice(self._random.randrange(len(candidates)), f"drawn from {len(candidates)} with room")
