"""Which two engines would serve a request best with prefill and decode apart."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sagellm_scheduler.core.columns import Columns, Role
from sagellm_scheduler.core.demand import Demand
from sagellm_scheduler.core.fleet import Slots
from sagellm_scheduler.perf_model.model import Forecast
from sagellm_scheduler.perf_model.transfers import TransferTimes
from sagellm_scheduler.routing.predictive import PRICE_OF_A_MISS_S
from sagellm_scheduler.separation.policy import Prospects

Mask = NDArray[np.bool_]
Figures = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """Indices of the engine that prefills and of the one that decodes, and what is expected of them; seconds."""

    prefill: int
    decode: int
    prospects: Prospects
    transfer_s: float
    raw_transfer_s: float


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines of a model, shape [n] each: which can prefill a request now, which have room to decode it, how much
    is taken of each, and how many tokens of the prompt it has in its cache."""

    slots: Slots
    can_prefill: Mask
    can_decode: Mask
    load: Figures
    cached: Figures


def best_pair(
    demand: Demand, engines: Engines, columns: Columns, forecast: Forecast, transfers: TransferTimes, *, predicts: bool
) -> Pair | None:
    """Return the pair of least expected harm, or of least load; None if no two engines can hand over to each other."""
    slots = engines.slots
    handoff = columns.handoff[slots]
    givers = engines.can_prefill & (handoff > 0) & (columns.role[slots] != Role.DECODE)
    takers = engines.can_decode & (handoff > 0) & (columns.role[slots] != Role.PREFILL)
    if not np.count_nonzero(givers) or not np.count_nonzero(takers):
        return None
    harm_there, harm_here = _harms(demand, forecast) if predicts else (engines.load, engines.load)
    best: tuple[float, int, int] | None = None
    for number in np.unique(handoff[givers]):
        found = _cheapest(harm_there, givers & (handoff == number), harm_here, takers & (handoff == number))
        if found is not None and (best is None or found < best):
            best = found
    return None if best is None else _pair(best[1], best[2], demand, engines, columns, forecast, transfers)


def _harms(demand: Demand, forecast: Forecast) -> tuple[Figures, Figures]:
    """Return the harm, in seconds, of prefilling a request on each engine, and of decoding it there."""
    first_ms, limit_ms, answer = demand.slo.ttft_ms, demand.slo.itl_ms, demand.answer
    there = forecast.apart_s + forecast.others * forecast.own_s + forecast.before_s
    here = answer * forecast.per_s + 0.5 * forecast.others * answer * forecast.grown_s + forecast.beside_s
    if first_ms is not None:
        there = there + PRICE_OF_A_MISS_S * (1.0 - forecast.apart_within(first_ms / 1e3 - demand.waited_s))
    if limit_ms is not None:
        limit_s = limit_ms / 1e3
        there = there + PRICE_OF_A_MISS_S * forecast.others_harmed(limit_s, answer=False)
        missed = 1.0 - forecast.per_within(limit_s) + forecast.others_harmed(limit_s, prompt=False)
        here = here + PRICE_OF_A_MISS_S * missed
    return there, here


def _cheapest(there: Figures, givers: Mask, here: Figures, takers: Mask) -> tuple[float, int, int] | None:
    """Return the least sum over two different engines, and which they are."""
    givers_first, takers_first = _two_least(there, givers), _two_least(here, takers)
    sums = [(float(there[g] + here[t]), g, t) for g in givers_first for t in takers_first if g != t]
    return min(sums) if sums else None


def _two_least(figures: Figures, mask: Mask) -> list[int]:
    indices = mask.nonzero()[0]
    if len(indices) > 2:
        indices = indices[np.argpartition(figures[indices], 1)[:2]]
    return [int(index) for index in indices]


def _pair(
    there: int,
    here: int,
    demand: Demand,
    engines: Engines,
    columns: Columns,
    forecast: Forecast,
    transfers: TransferTimes,
) -> Pair:
    slot = engines.slots[there]
    num_bytes = max(1.0, demand.work.context - engines.cached[here]) * columns.kv_bytes[slot]
    transfer_s = transfers.predict_s(int(columns.handoff[slot]), num_bytes)
    first_s, per_s = float(forecast.apart_s[there]) + transfer_s, float(forecast.per_s[here])
    others_there, others_here = float(forecast.others[there]), float(forecast.others[here])
    return Pair(
        there,
        here,
        Prospects(
            ttft_s=demand.waited_s + first_s,
            itl_s=per_s,
            missed=_missed(there, here, first_s, demand, forecast),
            added_s=first_s
            + demand.answer * per_s
            + others_there * float(forecast.own_s[there])
            + 0.5 * others_here * demand.answer * float(forecast.grown_s[here])
            + float(forecast.before_s[there] + forecast.beside_s[here]),
        ),
        transfer_s,
        transfers.raw_s(num_bytes),
    )


def _missed(there: int, here: int, first_s: float, demand: Demand, forecast: Forecast) -> float:
    """Return how many SLOs are expected to be missed, as `demand.missed` does for one engine."""
    slo, met, others = demand.slo, 1.0, 0.0
    if slo.ttft_ms is not None:
        transfer_s = first_s - float(forecast.apart_s[there])
        met *= float(forecast.apart_within(slo.ttft_ms / 1e3 - demand.waited_s - transfer_s)[there])
    if slo.itl_ms is not None:
        limit_s = slo.itl_ms / 1e3
        met *= float(forecast.per_within(limit_s)[here])
        others += float(forecast.others_harmed(limit_s, answer=False)[there])
        others += float(forecast.others_harmed(limit_s, prompt=False)[here])
    if slo.deadline_ms is not None:
        left_s = slo.deadline_ms / 1e3 - demand.waited_s - first_s
        met *= float(forecast.per_s[here]) * demand.answer <= left_s
    return 1.0 - met + others
