"""What a request asks for when it is placed, and what each engine would make of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sagellm_common.contracts.scheduling import Submit
from sagellm_common.contracts.slo import Slo
from sagellm_scheduler.core.estimates import context_tokens
from sagellm_scheduler.perf_model.model import Forecast, Work

Figures = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Demand:
    """A request that is to be placed `now`: its KV tokens and answer as expected, how long it has waited, its SLO; and
    the answer that is `typical` of its model, and how many are `waiting`, with it."""

    submit: Submit
    kv_tokens: int
    answer: float
    waited_s: float
    slo: Slo
    now: float
    typical: float = 256.0
    waiting: int = 0

    @property
    def work(self) -> Work:
        """What it asks of an engine."""
        limit_s = np.inf if self.slo.itl_ms is None else self.slo.itl_ms / 1e3
        context = float(context_tokens(self.submit))
        return Work(context, self.answer, self.submit.block_hashes, self.typical, limit_s, self.waiting)


def effective(stated: Slo, default: Slo) -> Slo:
    """Return the SLO that holds: what a request does not state is the default's."""
    if stated.ttft_ms is None and stated.itl_ms is None and stated.deadline_ms is None:
        return default
    return Slo(
        ttft_ms=stated.ttft_ms or default.ttft_ms,
        itl_ms=stated.itl_ms or default.itl_ms,
        deadline_ms=stated.deadline_ms or default.deadline_ms,
    )


def missed(expected: Forecast, demand: Demand) -> Figures:
    """Return how many SLOs are expected to be missed for the request on each engine, shape [n]."""
    slo, waited_s = demand.slo, demand.waited_s
    met = np.ones(len(expected.first_s))
    others = np.zeros(len(met))
    if slo.ttft_ms is not None:
        met = met * expected.first_within(slo.ttft_ms / 1e3 - waited_s)
    if slo.itl_ms is not None:
        met = met * expected.per_within(slo.itl_ms / 1e3)
        others = expected.others_harmed(slo.itl_ms / 1e3)
    if slo.deadline_ms is not None:
        met = met * expected.all_within(slo.deadline_ms / 1e3 - waited_s, demand.answer)
    return 1.0 - met + others
