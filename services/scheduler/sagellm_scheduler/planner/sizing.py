"""How many engines of which kind, layout and role serve a load within its SLOs for the least money."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sagellm_common.contracts.engines import EngineRole
from sagellm_scheduler.perf_model.capacity import (
    Limits,
    Mix,
    answers_per_s,
    first_token_s,
    prefills_per_s,
    whole_per_s,
)

WORTH = 0.9
"""Engines with roles must cost less than this share of engines that do both: they bend less when the mix changes."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Engines that can be had: what they compute on (`kind`) and how they are split over devices (`layout`, as TP2)."""

    kind: str
    limits: Limits
    price_per_hour: float = 1.0
    layout: str = ""
    can_hand_over: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be served: requests a second, the mean request, seconds to the first token and from token to token
    (infinite: not asked for), and the tokens of the longest prompts that shall have their first token in time."""

    rate: float
    mix: Mix
    ttft_s: float = math.inf
    itl_s: float = math.inf
    long_prompt: float = 0.0


@dataclass(frozen=True, slots=True)
class Group:
    """So many engines of one offer in one role."""

    offer: Offer
    role: EngineRole
    count: int


@dataclass(frozen=True, slots=True)
class Sizing:
    """A fleet, what it costs an hour, how many requests a second it bears, and why it was chosen."""

    groups: tuple[Group, ...]
    per_s: float
    reason: str

    @property
    def price_per_hour(self) -> float:
        return sum(group.count * group.offer.price_per_hour for group in self.groups)

    @property
    def count(self) -> int:
        return sum(group.count for group in self.groups)

    def within(self, most: int) -> "Sizing":
        """The same fleet, none of its groups larger than allowed."""
        return replace(self, groups=tuple(replace(group, count=min(group.count, most)) for group in self.groups))


def size(offers: Sequence[Offer], load: Load, *, least: int = 1, apart: bool = True) -> Sizing | None:
    """Return the cheapest fleet that bears a load, of `least` engines or more; None without offers.

    `apart`: engines that can hand over may get roles. Where no offer can meet the SLOs, the one that comes nearest is
    taken for what it can do, and the reason says so.
    """
    fit = [offer for offer in offers if _meets(offer, load)]
    whole = min((_whole(offer, load, least) for offer in fit), key=_by_price, default=None)
    if whole is None:
        return _nearest(offers, load, least)
    split = min(_pairs(fit, load, least), key=_by_price, default=None) if apart else None
    if split is not None and split.price_per_hour < WORTH * whole.price_per_hour:
        return split
    return whole


def _meets(offer: Offer, load: Load) -> bool:
    prompt = max(load.long_prompt, load.mix.new)
    is_prompt = first_token_s(offer.limits, prompt) <= load.ttft_s
    return is_prompt and whole_per_s(offer.limits, load.mix, load.itl_s) > 0.0


def _whole(offer: Offer, load: Load, least: int) -> Sizing:
    per_engine = whole_per_s(offer.limits, load.mix, load.itl_s)
    count = max(least, math.ceil(load.rate / per_engine))
    reason = f"an engine can prefill and decode {per_engine:.3g} requests/s"
    return Sizing((Group(offer, "hybrid", count),), count * per_engine, reason)


def _pairs(offers: Sequence[Offer], load: Load, least: int) -> Iterator[Sizing]:
    able = [offer for offer in offers if offer.can_hand_over]
    for giver in able:
        for taker in able:
            prefills, answers = (
                prefills_per_s(giver.limits, load.mix),
                answers_per_s(taker.limits, load.mix, load.itl_s),
            )
            if answers <= 0.0:
                continue
            first, second = max(1, math.ceil(load.rate / prefills)), max(1, math.ceil(load.rate / answers))
            if first + second >= least:
                groups = (Group(giver, "prefill", first), Group(taker, "decode", second))
                reason = f"apart, an engine can prefill {prefills:.3g} or decode {answers:.3g} requests/s"
                yield Sizing(groups, min(first * prefills, second * answers), reason)


def _nearest(offers: Sequence[Offer], load: Load, least: int) -> Sizing | None:
    """Serve as well as can be what no engine does in time: as many engines as keep up with the work."""
    if not offers:
        return None
    best = min(offers, key=lambda offer: first_token_s(offer.limits, max(load.long_prompt, load.mix.new)))
    relaxed = Load(load.rate, load.mix)
    found = _whole(best, relaxed, least)
    return Sizing(found.groups, found.per_s, f"no engine meets the SLOs; {found.reason} at any pace")


def _by_price(sizing: Sizing) -> tuple[float, int]:
    return sizing.price_per_hour, sizing.count
