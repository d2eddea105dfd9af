"""How much any scheduler could get out of engines: their time models without queueing, and with a perfect cache."""

from collections.abc import Iterable, Sequence

import numpy as np

from sagellm_scheduler.perf_model.capacity import Limits, Mix, requests_per_s
from sagellm_simulation.specs import PAGE_SIZE, EngineSpec
from sagellm_simulation.trace import Trace


def mix_of(trace: Trace) -> Mix:
    """Return the mean request of a trace, if all prefixes that have come before were kept for ever."""
    new = products = output = contexts = 0.0
    for request, left in zip(trace.requests, new_tokens(trace), strict=True):
        new += left
        products += left * (request.prompt_tokens - left / 2)
        output += request.output_tokens
        contexts += request.output_tokens * (request.prompt_tokens + request.output_tokens / 2)
    count = max(1, len(trace.requests))
    return Mix(new / count, output / count, contexts / max(1.0, output), products / count)


def new_tokens(trace: Trace) -> list[int]:
    """Return how many tokens of each prompt are to be computed, if all prefixes that came before were kept for ever."""
    known: set[int] = set()
    new = []
    for request in trace.requests:
        new.append(max(1, request.prompt_tokens - _cached(request.blocks, known) * trace.block))
        known.update(request.blocks)
    return new


def _cached(blocks: Sequence[int], known: set[int]) -> int:
    number = 0
    for block in blocks:
        if block not in known:
            break
        number += 1
    return number


def limits_of(spec: EngineSpec) -> Limits:
    """Return what bounds an engine."""
    times = (spec.base, spec.prefill, spec.decode, spec.context, spec.chunk_x_context, spec.over_knee)
    return Limits(
        np.array(times), float(spec.knee), spec.max_batch_tokens, spec.max_num_seqs, spec.num_pages * PAGE_SIZE
    )


def bound(engines: Iterable[EngineSpec], trace: Trace, itl_s: float) -> float:
    """Return the requests a second that no scheduler of these engines could exceed, each answered within the SLO."""
    return requests_per_s([limits_of(spec) for spec in engines], mix_of(trace), itl_s)
