"""The engine that has most of the prompt in its cache, if it is not too busy."""

from sagellm_common.contracts.scheduling import Submit
from sagellm_scheduler.routing.router import PATIENCE, Candidates, Choice

BALANCE = 0.5


class CacheAware:
    """Largest share of the prompt cached, minus `balance` times the load: a static rule, by no measure of time."""

    name = "cache_aware"
    patience = PATIENCE

    def __init__(self, balance: float = BALANCE) -> None:
        self.balance = balance

    def choose(self, submit: Submit, candidates: Candidates) -> Choice:
        share = candidates.cached / max(1, submit.prompt_tokens)
        index = candidates.least(self.balance * candidates.load - share)
        return Choice(index, f"{share[index]:.0%} of the prompt in its cache, load {candidates.load[index]:.2f}")
