"""What a request that joins the queue has to expect: the same predictions that place it, and the queue before it."""

from dataclasses import replace

import numpy as np

from sagellm_common.contracts.slo import NO_SLO
from sagellm_common.regression import Vector
from sagellm_scheduler.core.columns import Role
from sagellm_scheduler.core.demand import Demand, missed
from sagellm_scheduler.core.estimates import context_tokens, num_seqs
from sagellm_scheduler.core.fleet import Fleet, Outlook
from sagellm_scheduler.core.pairs import Engines, Mask, best_pair
from sagellm_scheduler.core.requests import Prospect
from sagellm_scheduler.perf_model.forecast import Loads, idle_engines


def prospect(demand: Demand, fleet: Fleet, *, seconds_before: float, slots_wait_s: float) -> Prospect | None:
    """Predict for the engines that could take the request; None if none is ready.

    An idle engine would take `seconds_before` for the prompts that wait. `slots_wait_s` is how long a sequence slot
    takes to come free if all are taken.
    """
    columns, slots = fleet.columns, fleet.slots(demand.submit.model)
    able = columns.ready[slots] & (columns.max_context[slots] > context_tokens(demand.submit))
    if not np.count_nonzero(able):
        return None
    outlook = fleet.outlook(demand.submit.model, demand.work, demand.now)
    loads, expected = outlook.loads, outlook.forecast
    wait_s = seconds_before / max(1e-3, idle_engines(loads.at(able.nonzero()[0]))) if seconds_before else 0.0
    if not np.count_nonzero(able & (columns.seqs[slots] < columns.max_seqs[slots])):
        wait_s = max(wait_s, slots_wait_s)
    tokens = demand.answer * num_seqs(demand.submit)
    decoding = able & (columns.role[slots] != Role.PREFILL)
    if not np.count_nonzero(decoding):
        decoding = able
    first_s, alone_s, total_s, cost, alone_itl_s = _least(
        able,
        expected.first_s,
        expected.alone_s,
        expected.alone_s + demand.answer * expected.per_s,
        (expected.alone_s + tokens * expected.per_s / (loads.sequences + 1)) * columns.price[slots],
        _alone(loads, context_tokens(demand.submit) + demand.answer / 2),
    )
    return Prospect(
        wait_s=wait_s,
        ttft_s=demand.waited_s + wait_s + first_s,
        alone_s=alone_s,
        total_s=total_s,
        cost=cost,
        itl_s=float(expected.per_s[decoding].min()),
        alone_itl_s=alone_itl_s,
        answer=demand.answer,
        missed=_least_missed(demand, wait_s, fleet, outlook, able, decoding),
    )


def _least_missed(demand: Demand, wait_s: float, fleet: Fleet, outlook: Outlook, able: Mask, whole: Mask) -> float:
    """Return how many SLOs are expected to be missed for a request that states some, on one engine or on two."""
    if demand.submit.slo == NO_SLO:
        return 0.0
    demand = replace(demand, waited_s=demand.waited_s + wait_s)
    columns, slots, expected = fleet.columns, outlook.slots, outlook.forecast
    least = float(missed(expected, demand)[whole].min())
    if num_seqs(demand.submit) > 1 or not np.count_nonzero(columns.handoff[slots]):
        return least
    load = columns.seqs[slots] / columns.max_seqs[slots]
    engines = Engines(slots, can_prefill=able, can_decode=able, load=load, cached=outlook.cached)
    pair = best_pair(demand, engines, columns, expected, fleet.transfers, predicts=True)
    return least if pair is None else min(least, pair.prospects.missed)


def _least(mask: Mask, *figures: Vector) -> list[float]:
    """Return the least of each of some figures [n] where the mask is set."""
    least: list[float] = np.array(figures)[:, mask].min(axis=1).tolist()
    return least


def _alone(loads: Loads, context: float) -> Vector:
    """Seconds of a step with one sequence of so many tokens, shape [n]."""
    base, _, decode, per_context, _, _ = loads.coefficients.T
    return np.asarray(base + decode + per_context * context)
