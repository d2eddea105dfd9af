"""Decision records: built when a request is placed, completed when it has ended."""

from typing import Any, Literal

from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.contracts.decisions import Cause, Decision, DecisionRecord
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.scheduling import Submit
from sagellm_common.contracts.slo import Slo
from sagellm_common.errors import SageError
from sagellm_scheduler.core.config import CoreConfig
from sagellm_scheduler.core.placement import Placed
from sagellm_scheduler.core.requests import Request


def decision(
    request: Request,
    placed: Placed,
    config: CoreConfig,
    *,
    leader_epoch: LeaderEpoch,
    number: int,
    queue_policy: str,
    router: str,
    now: float,
) -> Decision:
    """Describe one placement."""
    return Decision(
        epoch=request.epoch,
        scheduler_id=config.scheduler_id,
        leader_epoch=leader_epoch,
        time_s=now + config.wall_offset_s,
        queue_policy=queue_policy,
        router=router,
        queue_position=request.position,
        queued_ms=round((now - request.queued_at) * 1e3, 3),
        candidates=placed.candidates,
        chosen=placed.engine.engine_id,
        prefill=None if placed.prefill is None else placed.prefill.engine_id,
        reason=placed.reason,
        number=number,
        predicted_ttft_ms=round((placed.expected.first_s + now - request.arrival) * 1e3, 3),
        predicted_itl_ms=round(placed.expected.per_s * 1e3, 3),
        predicted_transfer_ms=None if placed.prefill is None else round(placed.expected.transfer_s * 1e3, 3),
        gave_way=request.gave_way,
        promised_itl_ms=request.slo.itl_ms,
    )


def open_record(request: Request) -> DecisionRecord:
    """The record of a request that has not ended."""
    return _record(request.submit, request.decisions)


def ended_record(request: Request, event: RequestEvent, alone_s: float) -> DecisionRecord:
    """The record of a request that its gateway has closed, with the figures that the gateway measured.

    `alone_s` is what its first token would have taken if nothing else had run.
    """
    missed = missed_slo(event, request.slo)
    return with_errors(
        _record(
            request.submit,
            request.decisions,
            slo=request.slo,
            outcome=event.phase,
            ttft_ms=event.ttft_ms,
            itl_ms=event.itl_mean_ms,
            e2e_ms=event.e2e_ms,
            transfer_ms=event.transfer_ms,
            completion_tokens=event.completion_tokens,
            error=event.error,
            missed=missed,
            cause=None if missed is None else cause_of(request, event, missed, alone_s),
        )
    )


def with_errors(record: DecisionRecord) -> DecisionRecord:
    """Return a record of a request that has ended with the relative errors of what its last placement predicted."""
    if record.outcome is None or not record.decisions:
        return record
    last = record.decisions[-1]
    return record.model_copy(
        update={
            "ttft_error": _error(last.predicted_ttft_ms, record.ttft_ms),
            "itl_error": _error(last.predicted_itl_ms, record.itl_ms),
        }
    )


def _error(predicted_ms: float | None, measured_ms: float | None) -> float | None:
    return None if predicted_ms is None or not measured_ms else round(1.0 - predicted_ms / measured_ms, 4)


def missed_slo(event: RequestEvent, slo: Slo) -> Literal["ttft", "itl", "deadline"] | None:
    """Return which of its SLOs a request has missed first, if any; the inter-token time counts in the mean."""
    if _exceeds(event.ttft_ms, slo.ttft_ms):
        return "ttft"
    if _exceeds(event.itl_mean_ms, slo.itl_ms):
        return "itl"
    return "deadline" if _exceeds(event.e2e_ms, slo.deadline_ms) else None


def cause_of(request: Request, event: RequestEvent, missed: str, alone_s: float) -> Cause:
    """Return what took the time: a lost engine; else, for the first token, whether it was more the waiting, here or
    on the engine, the prompt itself or its transfer; for the tokens after it, those that run beside."""
    if len(request.decisions) > 1 or event.epoch > 0:
        return "engine loss"
    if missed == "itl":
        return "decode interference"
    alone_ms = alone_s * 1e3
    first_ms, transfer_ms = event.ttft_ms or 0.0, event.transfer_ms or 0.0
    if missed == "deadline" and first_ms < (event.e2e_ms or 0.0) / 2:
        return "decode interference"
    if transfer_ms > max(alone_ms, first_ms - alone_ms - transfer_ms):
        return "transfer"
    return "prefill" if alone_ms > (first_ms - transfer_ms) / 2 else "queue"


def _exceeds(measured_ms: float | None, limit_ms: float | None) -> bool:
    return measured_ms is not None and limit_ms is not None and measured_ms > limit_ms


def rejected_record(submit: Submit, decisions: list[Decision], error: SageError) -> DecisionRecord:
    """The record of a request that the scheduler gave up itself."""
    return _record(submit, decisions, outcome="rejected", error=error.to_dict())


def _record(submit: Submit, decisions: list[Decision], **ended: Any) -> DecisionRecord:
    return DecisionRecord(
        request_id=submit.request_id,
        model=submit.model,
        prompt_tokens=submit.prompt_tokens,
        max_tokens=submit.max_tokens,
        priority=int(submit.priority),
        decisions=list(decisions),
        **{"slo": submit.slo, **ended},
    )
