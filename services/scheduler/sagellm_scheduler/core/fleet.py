"""All engines: who is registered, who is heard of, how loaded each is."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.contracts.kv import KvEvents, SnapshotReply
from sagellm_common.contracts.reports import EngineReport, StepSample
from sagellm_scheduler.core.columns import Columns, Role
from sagellm_scheduler.core.config import CoreConfig
from sagellm_scheduler.core.engine import Engine
from sagellm_scheduler.core.reservations import Reservation, Reservations
from sagellm_scheduler.kv_index.index import KvIndex
from sagellm_scheduler.perf_model.forecast import Loads, idle_engines, pass_time, prefill_rate
from sagellm_scheduler.perf_model.model import Forecast, PerformanceModel, Work
from sagellm_scheduler.perf_model.transfers import TransferTimes
from sagellm_scheduler.routing.rendezvous import stable_hash

Slots = NDArray[np.intp]
ROLES = {"hybrid": Role.HYBRID, "prefill": Role.PREFILL, "decode": Role.DECODE}


@dataclass(frozen=True, slots=True)
class Outlook:
    """The engines of a model, what they have to do, how many tokens of a prompt they have in their caches, and what a
    request would see there; shape [n] each."""

    slots: Slots
    loads: Loads
    cached: NDArray[np.float64]
    forecast: Forecast


class Fleet:
    """The engines by id. Every change of an engine is written through to its slot in `columns`."""

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        self.columns = Columns()
        self.performance = PerformanceModel()
        self.transfers = TransferTimes()
        self.kv = KvIndex()
        self._engines: dict[str, Engine] = {}
        self._by_slot: dict[int, Engine] = {}
        self._slots: dict[str, Slots] = {}
        self._handoffs: dict[str, int] = {"": 0}
        self._turn = 0
        self.ignored_reports = 0
        self._version = 0
        self._outlook: tuple[tuple[str, Work, int, float], Outlook] | None = None

    def __iter__(self) -> Iterator[Engine]:
        return iter(list(self._engines.values()))

    def get(self, engine_id: str) -> Engine | None:
        return self._engines.get(engine_id)

    def at(self, slot: int) -> Engine:
        return self._by_slot[slot]

    def models(self) -> list[str]:
        """Every model that an engine serves or has lately served, sorted."""
        return sorted({model for engine in self._engines.values() for model in engine.registration.models})

    def serving(self, model: str) -> list[Engine]:
        """All engines of a model, ready or not."""
        return [self._by_slot[int(slot)] for slot in self.slots(model)]

    def slots(self, model: str) -> Slots:
        """Slots of the engines that serve a model, shape [n]; the same array until a registration changes."""
        slots = self._slots.get(model)
        if slots is None:
            found = [engine.slot for engine in self._engines.values() if model in engine.registration.models]
            slots = self._slots[model] = np.array(found, np.intp)
        return slots

    def outlook(self, model: str, work: Work, now: float) -> Outlook:
        """Return what a request would see on each engine of a model; asked again before anything changes, the same."""
        key = (model, work, self._version, now)
        if self._outlook is None or self._outlook[0] != key:
            slots = self.slots(model)
            pass_time(self.columns.loads, now)
            loads = self.columns.loads.at(slots)
            is_even = not np.count_nonzero(self.columns.handoff[slots])  # else some come to prefill more than others
            if is_even and len(slots):
                loads.prefill_share = np.full(len(slots), loads.prefill_share.sum() / len(slots))
                loads.stalls = np.full(len(slots), loads.stalls.sum() / len(slots))
            cached = self.kv.overlap(work.blocks, slots) * self._config.block_tokens
            forecast = self.performance.forecast(loads, work, cached, now, is_even=is_even)
            self._outlook = key, Outlook(slots, loads, cached, forecast)
        return self._outlook[1]

    def working_off(self, model: str, now: float) -> tuple[float, float]:
        """Return as how many idle engines the ready ones of a model prefill, 0 without any, and for how many seconds
        even the least busy has prompts."""
        slots = self.slots(model)
        slots = slots[self.columns.ready[slots]]
        if not len(slots):
            return 0.0, 0.0
        pass_time(self.columns.loads, now)
        loads = self.columns.loads.at(slots)
        return idle_engines(loads), float((loads.backlog / np.maximum(1e-9, prefill_rate(loads))).min())

    def longest_context(self, model: str) -> int | None:
        """Tokens of the longest context that an engine of the model can hold, ready or not; None without engines."""
        slots = self.slots(model)
        return int(self.columns.max_context[slots].max()) if len(slots) else None

    # what engines say

    def register(self, registration: EngineRegistration, now: float) -> Engine | None:
        """Take a registration; returns the former incarnation, which is lost, if there was one."""
        known = self._engines.get(registration.engine_id)
        former = known if known is not None and known.incarnation != registration.incarnation else None
        if former is not None:
            self._remove(former)
        if known is None or former is not None:
            self._add(self._made(registration, now))
        else:
            known.registration, known.is_registered = registration, True
            self._describe(known)
            self.refresh(known)
        self._slots.clear()
        return former

    def unregister(self, engine_id: str) -> None:
        """The registration is gone: nothing more is given to the engine; only silence makes it lost."""
        engine = self._engines.get(engine_id)
        if engine is not None:
            engine.is_registered = False
            self.refresh(engine)

    def report(self, report: EngineReport, now: float) -> Engine | None:
        """Take a report; returns its engine, or None for an unknown incarnation or a report overtaken by a newer."""
        engine = self._engines.get(report.engine_id)
        if engine is None or engine.incarnation != report.incarnation or _is_overtaken(engine, report):
            self.ignored_reports += 1
            return None
        engine.report, engine.heard_at = report, now
        engine.is_lost = engine.is_stale = False
        if len(report.leader_epoch) == 2:
            engine.seen = ((report.leader_epoch[0], report.leader_epoch[1]), report.last_assignment)
            engine.reservations.acknowledge(engine.seen)
        engine.times.observe(report.steps, now)
        self.refresh(engine)
        if report.steps or not engine.backlog()[0]:
            self._step_begins(engine, now)
        return engine

    def cache_changed(self, events: KvEvents) -> Engine | None:
        """Take events of an engine's prefix cache; returns the engine if some are missing."""
        engine = self._engines.get(events.engine_id)
        if engine is None or engine.incarnation != events.incarnation or self.kv.apply(engine.slot, events):
            return None
        return engine

    def cache_learnt(self, snapshot: SnapshotReply) -> None:
        """Take all that is in an engine's prefix cache."""
        engine = self._engines.get(snapshot.engine_id)
        if engine is not None and engine.incarnation == snapshot.incarnation:
            self.kv.load(engine.slot, snapshot.number, snapshot.blocks)

    # what time does

    def silent(self, now: float, watching_since: float) -> list[Engine]:
        """Declare lost, and return, the engines unheard for a whole timeout in which we could have heard them."""
        lost = [engine for engine in self._engines.values() if self._is_silent(engine, now, watching_since)]
        for engine in lost:
            engine.is_lost = True
            engine.reservations = Reservations()
            self.refresh(engine)
        return lost

    def age(self, now: float) -> list[Engine]:
        """Mark old reports as stale, free what was never acknowledged, forget the long gone; returns what changed."""
        changed = []
        self.kv.expire(now)
        for engine in self:
            went_stale = not engine.is_stale and self._silence(engine, now) > self._config.stale_after_s
            if went_stale or engine.reservations.has_unseen():
                engine.is_stale = engine.is_stale or went_stale
                engine.reservations.expire(now)
                self.refresh(engine)
                changed.append(engine)
            if not engine.is_registered and self._silence(engine, now) > self._config.remember_engine_s:
                self._remove(engine)
                self._slots.clear()
        return changed

    def _is_silent(self, engine: Engine, now: float, watching_since: float) -> bool:
        waited = now - max(engine.since if engine.heard_at is None else engine.heard_at, watching_since)
        return not engine.is_lost and waited >= self._config.engine_timeout_s

    def _silence(self, engine: Engine, now: float) -> float:
        return now - (engine.since if engine.heard_at is None else engine.heard_at)

    # what we decide

    def reserve(self, engine: Engine, reservation: Reservation) -> None:
        """Count a request as load of the engine at once, unless the engine has already reported it as seen."""
        is_seen = reservation.mark <= engine.seen
        engine.reservations.add(reservation, seen=is_seen)
        self.refresh(engine)
        if not is_seen:
            self.columns.loads.backlog[engine.slot] += reservation.prefill
            self.columns.loads.prompts[engine.slot] += reservation.prompts

    def release(self, engine_id: str, request_id: str) -> None:
        """Free what a request has reserved on an engine, if anything."""
        engine = self._engines.get(engine_id)
        if engine is not None:
            engine.reservations.release(request_id)
            self.refresh(engine)

    def take_turn(self, engine: Engine) -> int:
        """Note that the engine has been chosen; returns the number of the assignment."""
        self._turn += 1
        self.columns.last_turn[engine.slot] = self._turn
        number = engine.next_number
        engine.next_number += 1
        return number

    def start_over(self) -> None:
        """Forget all reservations and number assignments from 1, as leadership begins or ends."""
        for engine in self._engines.values():
            engine.reservations, engine.next_number = Reservations(), 1
            self.refresh(engine)
            self._step_begins(engine, engine.since if engine.heard_at is None else engine.heard_at)

    # columns

    def refresh(self, engine: Engine) -> None:
        """Write what changes of an engine into its slot."""
        self._version += 1
        columns, slot = self.columns, engine.slot
        columns.ready[slot] = engine.is_ready
        columns.seqs[slot] = engine.seqs()
        columns.tokens[slot] = engine.tokens()
        decodes = engine.is_ready and engine.registration.role != "prefill"
        columns.loads.seats[slot] = columns.max_seqs[slot] if decodes else 0
        self._refresh_loads(engine)

    def _describe(self, engine: Engine) -> None:
        """Write what an engine's registration says of it into its slot."""
        columns, slot, registration = self.columns, engine.slot, engine.registration
        columns.max_seqs[slot] = max(1, registration.max_num_seqs)
        columns.total_tokens[slot] = max(1, engine.total_tokens)
        columns.max_context[slot] = engine.max_context
        columns.price[slot] = registration.price_per_hour / 3600.0
        columns.role[slot] = ROLES[registration.role]
        columns.handoff[slot] = self._handoffs.setdefault(registration.handoff, len(self._handoffs))
        columns.kv_bytes[slot] = registration.kv_bytes_per_token
        columns.loads.kind[slot] = self.performance.number(registration.kind)
        columns.loads.budget[slot] = registration.max_batch_tokens
        columns.loads.held[slot] = columns.total_tokens[slot]

    def _refresh_loads(self, engine: Engine) -> None:
        loads, slot = self.columns.loads, engine.slot
        loads.coefficients[slot] = engine.times.coefficients
        loads.knee[slot] = engine.times.knee
        loads.decoding[slot] = engine.decoding()
        loads.sequences[slot] = engine.answers()
        loads.context[slot] = engine.context()
        loads.prefill_share[slot] = engine.times.prefill_share
        loads.stalls[slot] = engine.times.stalls_per_s
        loads.comes[slot] = engine.times.prefill_per_s
        loads.limit[slot] = engine.limit_s()

    def _step_begins(self, engine: Engine, now: float) -> None:
        """A step has just ended: the next takes what waits."""
        loads, slot = self.columns.loads, engine.slot
        loads.ends[slot] = now
        loads.backlog[slot], loads.prompts[slot] = engine.backlog()

    def _made(self, registration: EngineRegistration, now: float) -> Engine:
        times = self.performance.engine(registration.kind)
        times.benchmarked([StepSample(*step) for step in registration.benchmark])
        return Engine(registration, self.columns.take(), times, since=now)

    def _add(self, engine: Engine) -> None:
        self._engines[engine.engine_id] = self._by_slot[engine.slot] = engine
        self.columns.hashes[engine.slot] = np.uint64(stable_hash(engine.engine_id))
        self.kv.begin(engine.slot)
        self._step_begins(engine, engine.since)
        self._describe(engine)
        self.refresh(engine)

    def _remove(self, engine: Engine) -> None:
        del self._engines[engine.engine_id], self._by_slot[engine.slot]
        self.columns.give_back(engine.slot)
        self.kv.forget(engine.slot)


def _is_overtaken(engine: Engine, report: EngineReport) -> bool:
    return engine.report is not None and report.number <= engine.report.number
