"""The way on which less harm is to be expected, request by request."""

from sagellm_common.contracts.scheduling import Submit
from sagellm_scheduler.routing.predictive import PRICE_OF_A_MISS_S
from sagellm_scheduler.separation.policy import Alternatives, Prospects, Verdict
from sagellm_scheduler.separation.threshold import Threshold

ENOUGH_SEEN = 16
MARGIN = 0.05


class Adaptive:
    """Compares what is predicted for both ways: SLOs missed, one of which is worth `price_s` seconds, and time added.

    Until `enough_seen` hand-offs have been seen, times of transfers are not known: the static rule decides then whether
    to try, where the prediction has nothing against it. Apart must be better by a twentieth, since it costs messages
    and the prompt is in two caches then.
    """

    name = "adaptive"
    predicts = True

    def __init__(self, price_s: float = PRICE_OF_A_MISS_S, enough_seen: int = ENOUGH_SEEN) -> None:
        self.price_s, self.enough_seen = price_s, enough_seen
        self._prior = Threshold()

    def separate(self, submit: Submit, alternatives: Alternatives) -> Verdict:
        whole, apart = alternatives.whole, alternatives.apart
        harm, harm_apart = self._harm(whole), self._harm(apart)
        is_better = harm_apart < (1.0 - MARGIN) * harm
        if is_better and alternatives.num_seen < self.enough_seen:
            is_better = self._prior.separate(submit, alternatives).is_apart
        return Verdict(is_better, f"apart {_told(apart)}, on one engine {_told(whole)}")

    def _harm(self, prospects: Prospects) -> float:
        return self.price_s * prospects.missed + prospects.added_s


def _told(prospects: Prospects) -> str:
    return (
        f"{prospects.ttft_s * 1e3:.0f} ms to the first token, {prospects.itl_s * 1e3:.1f} ms a token, "
        f"{prospects.missed:.2f} SLOs missed"
    )
