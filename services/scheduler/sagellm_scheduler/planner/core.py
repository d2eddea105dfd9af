"""The planner of one model: events in, a plan out when asked. Pure: no clock, no bus."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from sagellm_common.contracts.engines import EngineRegistration
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.plan import EngineGroup, FleetPlan
from sagellm_common.contracts.reports import EngineReport, StepSample
from sagellm_common.contracts.slo import NO_SLO, Slo
from sagellm_scheduler.perf_model.capacity import Limits
from sagellm_scheduler.perf_model.engine_times import EngineTimes
from sagellm_scheduler.perf_model.model import PerformanceModel
from sagellm_scheduler.planner.demand import HOUR_S, RECENT_S, Arrivals, MeanRequest
from sagellm_scheduler.planner.margin import Margin
from sagellm_scheduler.planner.sizing import Group, Load, Offer, Sizing, size

RATIOS = (0.5, 2.0)
FIRST_MARGIN = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannerConfig:
    """What is wanted. `attainment`: share of requests within `slo`. An engine takes `lead_s` from the order to its
    first request; it is given up when it has not been needed for `hold_s`, which, if it is as long as a start takes,
    never costs more than twice the best choice in hindsight (ski rental). `offers` are engines that could be had beside
    those that run; `apart`: whether engines may get roles."""

    slo: Slo = NO_SLO
    attainment: float = 0.99
    least: int = 1
    most: int = 64
    lead_s: float = 120.0
    hold_s: float = 120.0
    apart: bool = True
    offers: tuple[Offer, ...] = ()


@dataclass(slots=True)
class _Running:
    registration: EngineRegistration
    times: EngineTimes
    state: str = "ready"


class Planner:
    """Learns what arrives and what engines can do; all times in seconds on a clock that begins a day at 0."""

    def __init__(self, config: PlannerConfig, model: str, former: FleetPlan | None = None) -> None:
        self._config, self._model = config, model
        self._mean = MeanRequest.going_on(former.request if former else None)
        self._margin = Margin(config.attainment, former.margin if former else FIRST_MARGIN)
        self._performance = PerformanceModel()
        self._engines: dict[str, _Running] = {}
        self._last_kinds: dict[str, _Running] = {}
        self._next_hours: list[float] | None = None
        self._wanted: deque[tuple[float, Sizing]] = deque()
        self._arrivals = Arrivals(former.hours if former else None)
        self._former = former

    # what comes

    def accepted(self, prompt_tokens: int, now: float) -> None:
        """A gateway has accepted a request."""
        self._arrivals.arrived(prompt_tokens, now)

    def deaf(self, now: float) -> None:
        """Nothing could be heard of late, until now: that says nothing of what came."""
        self._arrivals.pass_time(now, heard=False)

    def ended(self, event: RequestEvent, now: float) -> None:
        """A request has ended; one that was cancelled says nothing."""
        if event.phase == "cancelled":
            return
        self._margin.observe(now, is_met=event.phase == "finished" and _met(event, self._config.slo))
        if event.phase == "finished" and event.prompt_tokens and event.completion_tokens:
            self._mean.observe(event.prompt_tokens, event.cached_tokens or 0, event.completion_tokens)

    def registered(self, registration: EngineRegistration) -> None:
        """An engine is there, or says something new about itself."""
        known = self._engines.get(registration.engine_id)
        if known is not None and known.registration.incarnation == registration.incarnation:
            known.registration = registration
            return
        times = self._performance.engine(registration.kind)
        times.benchmarked([StepSample(*step) for step in registration.benchmark])
        self._engines[registration.engine_id] = _Running(registration, times)
        self._last_kinds = self._kinds()

    def gone(self, engine_id: str) -> None:
        """An engine is there no longer."""
        self._engines.pop(engine_id, None)
        self._last_kinds = self._kinds() or self._last_kinds

    def _kinds(self) -> dict[str, _Running]:
        """One engine of each kind that runs."""
        return {engine.registration.kind: engine for engine in self._engines.values()}

    def reported(self, report: EngineReport, now: float) -> None:
        """Learn from an engine's steps."""
        engine = self._engines.get(report.engine_id)
        if engine is not None and engine.registration.incarnation == report.incarnation:
            engine.state = report.state
            engine.times.observe(report.steps, now)

    @property
    def hours(self) -> list[float]:
        """Requests a second of the hours that are over, to forecast from."""
        return list(self._arrivals.hours)

    def forecasted(self, next_hours: list[float] | None) -> None:
        """What is expected in this hour and those after it; None: nothing can be said."""
        self._next_hours = next_hours

    # what is wanted

    def plan(self, now: float) -> FleetPlan | None:
        """Return what is wanted from now on; None while no engine has been seen and none is on offer."""
        self._arrivals.pass_time(now)
        margin = self._margin.adjust(now)
        expected = self._expected(now)
        offers = self._offers()
        burst = self._burst(offers)
        load = self._load(expected * burst * margin)
        sizing = size(offers, load, least=self._config.least, apart=self._config.apart)
        if sizing is None:
            return None
        sizing = self._held(sizing, now).within(self._config.most)
        return FleetPlan(
            model=self._model,
            time_s=now,
            groups=[_described(group) for group in sizing.groups],
            engines_now=sum(engine.state == "ready" for engine in self._engines.values()),
            requests_per_s=round(self._arrivals.rate(), 4),
            expected_per_s=round(expected, 4),
            burst=round(burst, 3),
            margin=round(margin, 3),
            attainment=self._margin.attainment(now),
            price_per_hour=sizing.price_per_hour,
            reason=sizing.reason,
            request=self._mean.tokens,
            hours=self.hours,
            last_hour=int(now / HOUR_S),
        )

    def _load(self, rate: float) -> Load:
        slo = self._config.slo
        return Load(
            rate=rate,
            mix=self._mean.mix,
            ttft_s=math.inf if slo.ttft_ms is None else slo.ttft_ms / 1e3,
            itl_s=math.inf if slo.itl_ms is None else slo.itl_ms / 1e3,
            long_prompt=self._mean.long_prompt,
        )

    def _held(self, sizing: Sizing, now: float) -> Sizing:
        """Return the largest fleet that was wanted of late."""
        while self._wanted and self._wanted[0][0] < now - self._config.hold_s:
            self._wanted.popleft()
        self._wanted.append((now, sizing))
        return max((wanted for _, wanted in self._wanted), key=lambda wanted: wanted.per_s)

    def _expected(self, now: float) -> float:
        """Return the most that comes until engines ordered now would serve and could be given up again."""
        rate = self._arrivals.rate()
        hours = self._next_hours
        if hours is None or not self._arrivals.hours:
            return max(rate, self._arrivals.rate(RECENT_S / 4))
        begin = now - now % HOUR_S
        centres = begin + HOUR_S * (np.arange(len(hours) + 1) - 0.5)
        levels = [self._arrivals.hours[-1], *hours]
        usual = float(np.interp(now - RECENT_S / 2, centres, levels))
        ratio = min(RATIOS[1], max(RATIOS[0], rate / usual)) if usual > 0.0 else 1.0
        ahead = np.linspace(now, now + self._config.lead_s + self._config.hold_s / 2, 5)
        return ratio * float(np.interp(ahead, centres, levels).max())

    def _burst(self, offers: list[Offer]) -> float:
        if not offers:
            return 1.0
        _, prefill, decode, context, _, over = (float(value) for value in offers[0].limits.coefficients)
        mix = self._mean.mix
        return self._arrivals.burst(mix.output * (decode + context * mix.context), prefill + over)

    def _offers(self) -> list[Offer]:
        """Return what could be had: the kinds that run, else those that ran last, and those on offer."""
        kinds = self._kinds() or self._last_kinds
        running = [
            Offer(
                kind,
                _limits(engine),
                engine.registration.price_per_hour,
                can_hand_over=bool(engine.registration.handoff),
            )
            for kind, engine in sorted(kinds.items())
        ]
        return [*running, *(offer for offer in self._config.offers if offer.kind not in kinds)]


def _limits(engine: _Running) -> Limits:
    registration = engine.registration
    return Limits(
        engine.times.coefficients,
        engine.times.knee,
        registration.max_batch_tokens,
        registration.max_num_seqs,
        registration.num_pages * registration.page_size,
    )


def _described(group: Group) -> EngineGroup:
    return EngineGroup(kind=group.offer.kind, layout=group.offer.layout, role=group.role, count=group.count)


def _met(event: RequestEvent, slo: Slo) -> bool:
    measured = ((event.ttft_ms, slo.ttft_ms), (event.itl_mean_ms, slo.itl_ms), (event.e2e_ms, slo.deadline_ms))
    return all(limit is None or value is None or value <= limit for value, limit in measured)
