"""Decision records: built when a request is placed, completed when it has ended."""

from sagellm_common.contracts.base import LeaderEpoch
from sagellm_common.contracts.decisions import Decision, DecisionRecord
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.contracts.scheduling import Submit
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
        reason=placed.reason,
        number=number,
    )


def open_record(request: Request) -> DecisionRecord:
    """The record of a request that has not ended."""
    return _record(request.submit, request.decisions)


def ended_record(request: Request, event: RequestEvent) -> DecisionRecord:
    """The record of a request that its gateway has closed, with the figures that the gateway measured."""
    return _record(request.submit, request.decisions).model_copy(
        update={
            "outcome": event.phase,
            "ttft_ms": event.ttft_ms,
            "e2e_ms": event.e2e_ms,
            "completion_tokens": event.completion_tokens,
            "error": event.error,
        }
    )


def rejected_record(submit: Submit, decisions: list[Decision], error: SageError) -> DecisionRecord:
    """The record of a request that the scheduler gave up itself."""
    return _record(submit, decisions).model_copy(update={"outcome": "rejected", "error": error.to_dict()})


def _record(submit: Submit, decisions: list[Decision]) -> DecisionRecord:
    return DecisionRecord(
        request_id=submit.request_id,
        model=submit.model,
        prompt_tokens=submit.prompt_tokens,
        max_tokens=submit.max_tokens,
        priority=int(submit.priority),
        decisions=list(decisions),
    )
