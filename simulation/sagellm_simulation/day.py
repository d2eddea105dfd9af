"""A day of traffic composed of traces: their own bursts and lengths, at rates that follow the hours."""

import math
import random
from dataclasses import dataclass, replace

from sagellm_simulation.trace import Trace, TraceRequest

HOURS = 24
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Curve:
    """Requests a second over a day: `mean · (1 + swing · cos(2π (hour - peak) / 24))`, times a chance of each hour that
    is log-normal with `spread`, from hour to hour in straight lines."""

    mean: float
    peak: float
    swing: float = 0.6
    spread: float = 0.1

    def levels(self, seed: int, hours: int = HOURS) -> list[float]:
        """Requests a second in the middle of each hour from midnight on."""
        chance = random.Random(seed)
        return [
            self.mean
            * (1.0 + self.swing * math.cos(2 * math.pi * (hour + 0.5 - self.peak) / HOURS))
            * chance.lognormvariate(-(self.spread**2) / 2, self.spread)
            for hour in range(hours)
        ]


def at(levels: list[float], seconds: float) -> float:
    """The rate at a time, between the middles of the hours in straight lines, the ends level."""
    place = min(max(seconds / HOUR_S - 0.5, 0.0), len(levels) - 1.0)
    before = min(int(place), len(levels) - 2) if len(levels) > 1 else 0
    after = min(before + 1, len(levels) - 1)
    return levels[before] + (place - before) * (levels[after] - levels[before])


def compose(parts: list[tuple[Trace, Curve]], seed: int, hours: int = HOURS) -> Trace:
    """Let traces run side by side, each from a place of its own on and begun again when it is over, its times stretched
    or squeezed so that the rate follows its curve."""
    requests: list[TraceRequest] = []
    for number, (trace, curve) in enumerate(parts):
        first = random.Random(seed + number).randrange(len(trace.requests))
        requests += _follow(trace, first, curve.levels(seed + number, hours), f"{number}-", hours * HOUR_S)
    requests.sort(key=lambda request: (request.at, request.request_id))
    return Trace("a day", requests, parts[0][0].block)


def history(parts: list[tuple[Trace, Curve]], seed: int, days: int) -> list[float]:
    """Requests a second of all hours of the days before, by the same curves and other chances."""
    total = [0.0] * (days * HOURS)
    for number, (_, curve) in enumerate(parts):
        chance = curve.levels(seed + 1000 + number, days * HOURS)
        total = [one + other for one, other in zip(total, chance, strict=True)]
    return total


def _follow(trace: Trace, first: int, levels: list[float], name: str, end_s: float) -> list[TraceRequest]:
    """Requests of one trace from the `first` on."""
    found: list[TraceRequest] = []
    total, now, place = len(trace.requests), 0.0, first
    while now < end_s:
        request, last = trace.requests[place % total], trace.requests[place % total - 1]
        gap = request.at - last.at if place % total else 1.0 / trace.rate
        place += 1
        now += gap * trace.rate / max(1e-6, at(levels, now))
        if now < end_s:
            found.append(replace(request, request_id=f"{name}{place}", at=now))
    return found
