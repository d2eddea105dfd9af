"""The engine on which the least harm is to be expected."""

from sagellm_common.contracts.scheduling import Submit
from sagellm_scheduler.routing.router import PATIENCE, Candidates, Choice

PRICE_OF_A_MISS_S = 100.0


class Predictive:
    """Fewest SLOs missed, the request's own and those of the requests that run there; then the least time added.

    Time added is the request's own time and the delay of all others together, so that requests spread over engines of
    different speed as their speed allows. An SLO is worth `price_s` seconds of it.
    """

    name = "predictive"
    patience = PATIENCE

    def __init__(self, price_s: float = PRICE_OF_A_MISS_S) -> None:
        self.price_s = price_s

    def choose(self, submit: Submit, candidates: Candidates) -> Choice:
        index = candidates.least(self.price_s * candidates.missed + candidates.added_s)
        return Choice(
            index,
            f"least harm of {len(candidates)} with room: first token expected after "
            f"{candidates.ttft_s[index] * 1e3:.0f} ms, then {candidates.itl_s[index] * 1e3:.1f} ms a token, "
            f"{candidates.missed[index]:.2f} SLOs missed",
        )
