"""How much any scheduler could get out of engines: their time models without queueing, and with a perfect cache."""

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sagellm_scheduler.perf_model.capacity import Limits, Mix, requests_per_s
from sagellm_simulation.specs import PAGE_SIZE, EngineSpec
from sagellm_simulation.trace import Trace


def new_tokens(trace: Trace, held: float = math.inf) -> list[int]:
    """Return how many tokens of each prompt are to be computed at least, if a cache keeps `held` tokens of those that
    came before: always what is needed again soonest (Belady, "A study of replacement algorithms", 1966)."""
    places = _places(trace)
    most = held / trace.block
    cache: dict[int, int] = {}
    farthest: list[tuple[int, int]] = []
    new = []
    for request in trace.requests:
        found = sum(block in cache for block in request.blocks)
        new.append(max(1, request.prompt_tokens - found * trace.block))
        for block in request.blocks:
            places[block].pop()
            cache.pop(block, None)
            if places[block]:
                cache[block] = places[block][-1]
                heapq.heappush(farthest, (-cache[block], block))
        while len(cache) > most:
            place, block = heapq.heappop(farthest)
            if cache.get(block) == -place:
                del cache[block]
    return new


def _places(trace: Trace) -> dict[int, list[int]]:
    """Numbers of the requests that need each block, the last first."""
    places: dict[int, list[int]] = {}
    for number in reversed(range(len(trace.requests))):
        for block in trace.requests[number].blocks:
            places.setdefault(block, []).append(number)
    return places


def new_by_recency(trace: Trace, held: float = math.inf) -> list[int]:
    """Return the same of a cache that does not know what will come: it gives up what was used the longest ago, as
    engines do, of equally old blocks those farther back in a prompt."""
    cache: OrderedDict[int, None] = OrderedDict()
    new = []
    for request in trace.requests:
        found = sum(1 for _ in itertools.takewhile(cache.__contains__, request.blocks))
        new.append(max(1, request.prompt_tokens - found * trace.block))
        for block in reversed(request.blocks):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > held / trace.block:
            cache.popitem(last=False)
    return new


Cache = Callable[[Trace, float], list[int]]


def mix_of(trace: Trace, held: float = math.inf, cache: Cache = new_tokens) -> Mix:
    """Return the mean request of a trace with a cache of `held` tokens, a perfect one unless told."""
    new = products = output = contexts = 0.0
    for request, left in zip(trace.requests, cache(trace, held), strict=True):
        new += left
        products += left * (request.prompt_tokens - left / 2)
        output += request.output_tokens
        contexts += request.output_tokens * (request.prompt_tokens + request.output_tokens / 2)
    count = max(1, len(trace.requests))
    return Mix(new / count, output / count, contexts / max(1.0, output), products / count)


def held_tokens(engines: Iterable[EngineSpec]) -> int:
    """Tokens of context that engines hold together."""
    return sum(spec.num_pages * PAGE_SIZE for spec in engines)


def limits_of(spec: EngineSpec) -> Limits:
    """Return what bounds an engine."""
    times = (spec.base, spec.prefill, spec.decode, spec.context, spec.chunk_x_context, spec.over_knee)
    return Limits(
        np.array(times), float(spec.knee), spec.max_batch_tokens, spec.max_num_seqs, spec.num_pages * PAGE_SIZE
    )


def bound(engines: Sequence[EngineSpec], trace: Trace, itl_s: float, cache: Cache = new_tokens) -> float:
    """Return the requests a second, each answered within the SLO, that no scheduler of these engines could exceed for
    long that takes them in the order of their arrival."""
    mix = mix_of(trace, held_tokens(engines), cache)
    return requests_per_s([limits_of(spec) for spec in engines], mix, itl_s)
