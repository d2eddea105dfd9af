"""Events for observers, made of what the core says."""

import time
from collections.abc import Sequence
from typing import cast

from sagellm_common.contracts.events import Phase, RequestEvent
from sagellm_gateway.core.request import Outcome, Request


def phase_event(request: Request, phase: Phase, *, ttft_s: float | None = None) -> RequestEvent:
    """Say that a request has entered a phase."""
    return RequestEvent(
        request_id=request.request_id,
        phase=phase,
        epoch=request.epoch,
        gateway_id=request.submit.gateway_id,
        engine_id=request.engine_id,
        model=request.submit.model,
        time_s=time.time(),
        ttft_ms=_ms(ttft_s),
        prompt_tokens=request.submit.prompt_tokens,
    )


def end_event(request: Request, outcome: Outcome) -> RequestEvent:
    """Say how a request ended, with its figures."""
    gaps = sorted(outcome.gaps_s)
    return RequestEvent(
        request_id=request.request_id,
        phase=cast(Phase, outcome.phase),
        epoch=outcome.epoch,
        gateway_id=request.submit.gateway_id,
        engine_id=outcome.engine_id,
        model=request.submit.model,
        time_s=time.time(),
        queue_ms=_ms(outcome.queue_s),
        ttft_ms=_ms(outcome.ttft_s),
        itl_mean_ms=_ms(_per_token(outcome)),
        itl_p50_ms=_ms(_median(gaps)),
        itl_max_ms=_ms(gaps[-1] if gaps else None),
        e2e_ms=_ms(outcome.e2e_s),
        prompt_tokens=request.submit.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
        cached_tokens=outcome.cached_tokens,
        transfer_ms=outcome.transfer_ms,
        error=outcome.error.to_dict() if outcome.error is not None else None,
    )


def _per_token(outcome: Outcome) -> float | None:
    """Mean time from token to token of a choice; a frame may bring several, so the gaps between frames do not tell."""
    choices = max(1, len(outcome.finish_reasons))
    if outcome.ttft_s is None or outcome.completion_tokens <= choices:
        return None
    return (outcome.e2e_s - outcome.ttft_s) / (outcome.completion_tokens / choices - 1)


def _median(ordered: Sequence[float]) -> float | None:
    return ordered[len(ordered) // 2] if ordered else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
