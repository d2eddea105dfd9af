"""What a request that joins the queue has to expect: the same predictions that place it, and the queue before it."""

import numpy as np

from sagellm_scheduler.core.demand import Demand, forecast
from sagellm_scheduler.core.estimates import context_tokens, num_seqs
from sagellm_scheduler.core.fleet import Fleet
from sagellm_scheduler.core.requests import Prospect
from sagellm_scheduler.perf_model.forecast import prefill_rate


def prospect(demand: Demand, fleet: Fleet, *, tokens_before: int, slots_wait_s: float) -> Prospect | None:
    """Predict for the engines that could take the request; None if none is ready.

    `tokens_before` are to be prefilled before it. `slots_wait_s` is how long a sequence slot takes to come free if all
    are taken.
    """
    columns, slots = fleet.columns, fleet.slots(demand.submit.model)
    slots = slots[columns.ready[slots] & (columns.max_context[slots] > context_tokens(demand.submit))]
    if not len(slots):
        return None
    loads = columns.loads.at(slots)
    expected = forecast(fleet.performance, loads, demand)
    wait_s = tokens_before / float(prefill_rate(loads).sum()) if tokens_before else 0.0
    if bool((columns.seqs[slots] >= columns.max_seqs[slots]).all()):
        wait_s = max(wait_s, slots_wait_s)
    tokens = demand.answer * num_seqs(demand.submit)
    seconds = expected.alone_s + tokens * expected.per_s / np.maximum(1.0, loads.sequences + 1)
    return Prospect(
        wait_s=wait_s,
        ttft_s=demand.waited_s + wait_s + float(expected.first_s.min()),
        alone_s=float(expected.alone_s.min()),
        total_s=float((expected.alone_s + demand.answer * expected.per_s).min()),
        cost=float((seconds * columns.price[slots]).min()),
    )
