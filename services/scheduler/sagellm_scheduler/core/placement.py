"""Which engine takes the request at the head of a queue."""

from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from sagellm_common.contracts.decisions import Candidate
from sagellm_common.contracts.scheduling import Submit
from sagellm_scheduler.core.columns import Role
from sagellm_scheduler.core.demand import Demand, missed
from sagellm_scheduler.core.engine import Engine
from sagellm_scheduler.core.estimates import context_tokens, num_seqs
from sagellm_scheduler.core.fleet import Fleet, Outlook, Slots
from sagellm_scheduler.core.pairs import Engines, Pair, best_pair
from sagellm_scheduler.core.requests import Expected
from sagellm_scheduler.perf_model.forecast import prefix_s
from sagellm_scheduler.perf_model.model import Forecast
from sagellm_scheduler.routing.router import Candidates, Choice, Router
from sagellm_scheduler.separation.policy import Alternatives, Prospects, SeparationPolicy, Verdict

Mask = NDArray[np.bool_]
MAX_LISTED = 6
FULL = Verdict(True, "no engine that answers has room for the prompt")


class Blocked(Enum):
    """Why a request cannot be placed now."""

    BUSY = "engines could run it and have no room: those behind it wait too, so that a large prompt is not starved"
    NO_ENGINE = "no engine that could run it is ready: those behind it may go"


@dataclass(frozen=True, slots=True)
class Placed:
    """The chosen engine, why, what is expected there, what it was compared with; `prefill`: the engine that prefills,
    if it is another."""

    engine: Engine
    reason: str
    expected: Expected
    candidates: list[Candidate] = field(default_factory=list)
    prefill: Engine | None = None

    def is_late(self, demand: Demand) -> bool:
        """Whether the first token is still to come, and expected later than its SLO allows."""
        limit_ms = None if demand.submit.delivered_tokens else demand.slo.ttft_ms
        return limit_ms is not None and demand.waited_s + self.expected.first_s > limit_ms / 1e3


@dataclass(frozen=True, slots=True)
class _Views:
    """Masks over the engines of a model, shape [n] each."""

    slots: Slots
    able: Mask
    has_slot: Mask
    room: Mask
    load: NDArray[np.float64]
    expected: Forecast
    cached: NDArray[np.float64]
    missed: NDArray[np.float64]
    waited_s: float

    def index(self, engine: Engine) -> int:
        """Index of one of them."""
        return int((self.slots == engine.slot).argmax())


def place(
    demand: Demand, fleet: Fleet, router: Router, separation: SeparationPolicy, *, backlog_s: float
) -> Placed | Blocked:
    """Choose an engine by the router among those that are able and have room, or two engines, one of which prefills,
    where `separation` prefers that; roles and failures only narrow the choice.

    Able: serves the model, is ready, holds the context, and has not failed this request (unless all others have
    too). Room: a sequence slot and KV pages are free, and what is still to be prefilled there takes less than
    `backlog_s`, so that what waits is ordered here, or more where its cache saves time and the router has patience.
    Engines of the prefill role run whole requests only where no other has room; where they can hand over, only where no
    other has a slot: an answer there would slow down all prompts.
    """
    views = _views(demand, fleet, backlog_s, getattr(router, "patience", 0.0))
    if isinstance(views, Blocked):
        return views
    if not np.count_nonzero(views.room):
        return Blocked.BUSY
    whole = _place_whole(demand, fleet, router, separation, views)
    best = _place_apart(demand, fleet, separation, views, whole) or whole
    if best is None:
        return Blocked.BUSY
    best.candidates.extend(_listed(demand.submit, fleet, views, best.engine))
    return best


def _place_apart(
    demand: Demand, fleet: Fleet, separation: SeparationPolicy, views: _Views, whole: Placed | None
) -> Placed | None:
    """Choose two engines, if the policy wants that, or where `whole` says that no other way is open, and there are two
    that can hand over; several choices of one request share their prompt's pages and stay together."""
    if not _hands_over(demand.submit, fleet, separation, views.slots):
        return None
    engines = Engines(
        views.slots, can_prefill=views.room, can_decode=views.has_slot, load=views.load, cached=views.cached
    )
    pair = best_pair(demand, engines, fleet.columns, views.expected, fleet.transfers, predicts=separation.predicts)
    if pair is None:
        return None
    verdict = FULL
    if whole is not None:
        asked = Alternatives(_prospects(demand, views, whole), pair.prospects, demand.answer, fleet.transfers.num_seen)
        verdict = separation.separate(demand.submit, asked)
    if not verdict.is_apart:
        return None
    giver, taker = fleet.at(int(views.slots[pair.prefill])), fleet.at(int(views.slots[pair.decode]))
    reason = f"{separation.name}: prefill on {giver.engine_id}; {verdict.reason}"
    expected = _expected_apart(views, pair, giver, taker, fleet, demand)
    return Placed(taker, reason, expected, prefill=giver)


def _prospects(demand: Demand, views: _Views, whole: Placed) -> Prospects:
    index = views.index(whole.engine)
    return Prospects(
        ttft_s=demand.waited_s + whole.expected.first_s,
        itl_s=whole.expected.per_s,
        missed=float(views.missed[index]),
        added_s=float(views.expected.added_s[index]),
    )


def _place_whole(
    demand: Demand, fleet: Fleet, router: Router, separation: SeparationPolicy, views: _Views
) -> Placed | None:
    submit, answers = demand.submit, fleet.columns.role[views.slots] != Role.PREFILL
    if not np.count_nonzero(views.room & answers) and _hands_over(
        submit, fleet, separation, views.slots[views.has_slot & answers]
    ):
        return None
    chosen = _narrow(views.room, answers).nonzero()[0]
    slots = views.slots[chosen]
    offered = Candidates(
        _Ids(fleet, slots),
        views.load[chosen],
        fleet.columns.last_turn[slots],
        fleet.columns.hashes[slots],
        ttft_s=demand.waited_s + views.expected.first_s[chosen],
        itl_s=views.expected.per_s[chosen],
        cached=views.cached[chosen],
        missed=views.missed[chosen],
        added_s=views.expected.added_s[chosen],
    )
    choice = _choose(submit, offered, router)
    picked = int(chosen[choice.index])
    engine = fleet.at(int(views.slots[picked]))
    reason = f"{router.name}: {choice.reason}{_caveat(submit, engine)}"
    return Placed(engine, reason, _expected(views, picked, engine, demand.now))


def _hands_over(submit: Submit, fleet: Fleet, separation: SeparationPolicy, slots: Slots) -> bool:
    """Whether the policy may give a request to two engines, and one of these can hand over."""
    return separation.name != "off" and num_seqs(submit) == 1 and bool(np.count_nonzero(fleet.columns.handoff[slots]))


def _expected(views: _Views, index: int, engine: Engine, now: float) -> Expected:
    expected = views.expected
    return Expected(
        at=now,
        kind=engine.registration.kind,
        first_s=float(expected.first_s[index]),
        per_s=float(expected.usual_s[index]),
        raw_first_s=float(expected.raw_first_s[index]),
        raw_per_s=float(expected.raw_per_s[index]),
        raw_fleet_s=float(expected.raw_fleet_s[index]),
        alone_s=float(expected.alone_s[index]),
        cached=int(views.cached[index]),
        per_kind=engine.registration.kind,
    )


def _expected_apart(views: _Views, pair: Pair, giver: Engine, taker: Engine, fleet: Fleet, demand: Demand) -> Expected:
    there, here = _expected(views, pair.prefill, giver, demand.now), _expected(views, pair.decode, taker, demand.now)
    return replace(
        there,
        first_s=float(views.expected.apart_s[pair.prefill]) + pair.transfer_s,
        per_s=here.per_s,
        raw_per_s=here.raw_per_s,
        raw_fleet_s=here.raw_fleet_s,
        per_kind=here.per_kind,
        transfer_s=pair.transfer_s,
        raw_transfer_s=pair.raw_transfer_s,
        handoff=int(fleet.columns.handoff[giver.slot]),
    )


def _choose(submit: Submit, offered: Candidates, router: Router) -> Choice:
    """Ask the router; one that fails costs its choice, not the request."""
    try:
        choice = router.choose(submit, offered)
        if 0 <= choice.index < len(offered):
            return choice
        fault = f"chose number {choice.index} of {len(offered)}"
    except Exception as error:  # a router may be anybody's plug-in
        fault = f"failed with {type(error).__name__}: {error}"
    return Choice(offered.least_loaded(), f"the router {fault}; least loaded instead")


def _views(demand: Demand, fleet: Fleet, backlog_s: float, patience: float) -> _Views | Blocked:
    submit, columns = demand.submit, fleet.columns
    slots = fleet.slots(submit.model)
    seqs, max_seqs = columns.seqs[slots], columns.max_seqs[slots]
    tokens, total = columns.tokens[slots], columns.total_tokens[slots]
    able = columns.ready[slots] & (columns.max_context[slots] > context_tokens(submit))
    if submit.failed_engines:
        failed = [engine.slot for name in submit.failed_engines if (engine := fleet.get(name))]
        able = _narrow(able, ~np.isin(slots, failed))
    room = able & (seqs < max_seqs) & ((tokens + demand.kv_tokens <= total) | (seqs == 0))
    if not np.count_nonzero(room):
        return Blocked.BUSY if np.count_nonzero(able) else Blocked.NO_ENGINE
    outlook = fleet.outlook(submit.model, demand.work, demand.now)
    load, expected = seqs / max_seqs + tokens / total, outlook.forecast
    is_open = room & ((outlook.loads.backlog == 0) | (expected.backlog_s < backlog_s))
    if patience > 0.0 and np.count_nonzero(outlook.cached):
        is_open |= room & _worth_waiting(demand, outlook, room, backlog_s, patience)
    misses = missed(expected, demand)
    return _Views(slots, able, room, is_open, load, expected, outlook.cached, misses, demand.waited_s)


def _worth_waiting(demand: Demand, outlook: Outlook, room: Mask, backlog_s: float, patience: float) -> Mask:
    """Engines whose caches save so much that the prompts before it may take longer; where the first token would be late
    there, only if it would be on all."""
    expected = outlook.forecast
    is_worth = expected.backlog_s < backlog_s + patience * prefix_s(outlook.loads, outlook.cached)
    if demand.slo.ttft_ms is None:
        return is_worth
    in_time = room & (demand.waited_s + expected.first_s <= demand.slo.ttft_ms / 1e3)
    return is_worth & _narrow(room, in_time)


def _narrow(mask: Mask, preferred: Mask) -> Mask:
    """Return what of `mask` is preferred, or `mask` itself if nothing is."""
    both = mask & preferred
    return both if np.count_nonzero(both) else mask


class _Ids:
    """Engine ids by candidate index, looked up only when a router asks."""

    def __init__(self, fleet: Fleet, slots: Slots) -> None:
        self._fleet, self._slots = fleet, slots

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, index: int) -> str:
        return self._fleet.at(int(self._slots[index])).engine_id


def _caveat(submit: Submit, engine: Engine) -> str:
    if engine.engine_id in submit.failed_engines:
        return "; it has failed this request before, and no other engine is ready"
    return ""


def _listed(submit: Submit, fleet: Fleet, views: _Views, chosen: Engine) -> list[Candidate]:
    """List the chosen engine, the next best, and some that were excluded, with why."""
    picked, rivals = views.index(chosen), views.room.nonzero()[0]
    if len(rivals) > MAX_LISTED:
        rivals = rivals[views.load[rivals].argpartition(MAX_LISTED)[:MAX_LISTED]]
    rivals = rivals[views.load[rivals].argsort(kind="stable")]
    excluded = (~views.room).nonzero()[0][:MAX_LISTED]
    listed = np.concatenate([[picked], rivals[rivals != picked], excluded])
    expected = views.expected
    figures = zip(
        views.slots[listed].tolist(),
        views.load[listed].round(4).tolist(),
        views.cached[listed].astype(int).tolist(),
        (1e3 * (views.waited_s + expected.first_s[listed])).round(3).tolist(),
        (1e3 * expected.usual_s[listed]).round(3).tolist(),
        views.missed[listed].round(4).tolist(),
        (1e3 * expected.delay_s[listed]).round(3).tolist(),
        views.room[listed].tolist(),
        views.able[listed].tolist(),
        strict=True,
    )
    return [_candidate(submit, fleet.at(slot), *figure) for slot, *figure in figures]


def _candidate(
    submit: Submit,
    engine: Engine,
    load: float,
    cached: int,
    ttft_ms: float,
    itl_ms: float,
    misses: float,
    delay_ms: float,
    has_room: bool,
    is_able: bool,
) -> Candidate:
    gauges = engine.report.gauges if engine.report else None
    return Candidate(
        engine.engine_id,
        load,
        running=gauges.running if gauges else 0,
        waiting=gauges.waiting if gauges else 0,
        reserved=engine.reservations.seqs if engine.is_stale else engine.reservations.unseen_seqs,
        cached_tokens=cached,
        predicted_ttft_ms=ttft_ms,
        predicted_itl_ms=itl_ms,
        predicted_misses=misses,
        predicted_delay_ms=delay_ms,
        excluded=None if has_room else _why_excluded(submit, engine, is_able),
    )


def _why_excluded(submit: Submit, engine: Engine, is_able: bool) -> str:
    if not engine.is_ready:
        return engine.why_not_ready()
    if is_able:
        return "no room"
    if engine.engine_id in submit.failed_engines:
        return "has failed this request before"
    return f"holds {engine.max_context} tokens only"
