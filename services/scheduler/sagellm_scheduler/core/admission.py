"""What is refused at once: what no engine can hold, more than the queue takes, and what would come too late or cost
too much."""

from sagellm_common.contracts.scheduling import Submit
from sagellm_common.errors import InvalidArgument, NotFound, ResourceExhausted, SageError
from sagellm_scheduler.core.estimates import context_tokens, sensible_retry_s
from sagellm_scheduler.core.fleet import Fleet
from sagellm_scheduler.core.requests import Prospect

LEAST_GAIN = 0.3
"""SLOs that a request must be expected to add to those that are met."""


def refusal(
    submit: Submit, fleet: Fleet, *, num_waiting: int, max_queue: int, retry_after_s: float
) -> SageError | None:
    """Return why a request cannot be admitted, or None.

    An epoch above 0 continues a stream that was admitted before: the length of the queue does not stop it.
    """
    longest = fleet.longest_context(submit.model)
    if longest is None:
        known = ", ".join(fleet.models()) or "none at the moment"
        return NotFound(f"no engine serves the model {submit.model!r}; known models: {known}", param="model")
    if context_tokens(submit) >= longest:
        return InvalidArgument(
            f"the prompt has {context_tokens(submit)} tokens; an engine of {submit.model!r} "
            f"holds {longest} with the answer",
            param="prompt",
        )
    if submit.epoch == 0 and num_waiting >= max_queue:
        return ResourceExhausted(f"{num_waiting} requests are waiting, as many as allowed", retry_after_s=retry_after_s)
    return None


def predicted_refusal(submit: Submit, prospect: Prospect | None, slack: float | None) -> SageError | None:
    """Return why a new request would come too late, be too slow or cost too much, or None.

    Too late: the first token is expected more than `slack` times later than the request states, too slow: the others
    after it; and what would make others miss their SLOs. What even an idle engine cannot do in time is served as well
    as can be.
    """
    if prospect is None or submit.epoch > 0:
        return None
    if submit.cost_budget is not None and prospect.cost > submit.cost_budget:
        return InvalidArgument(
            f"the request is expected to cost {prospect.cost:.3g}, more than its cost_budget of {submit.cost_budget:g}",
            param="cost_budget",
        )
    if slack is None:
        return None
    return _too_late(submit, prospect, slack) or _too_slow(submit, prospect, slack) or _too_dear(submit, prospect)


def _too_late(submit: Submit, prospect: Prospect, slack: float) -> SageError | None:
    limit_ms = submit.slo.ttft_ms
    if limit_ms is None:
        return None
    limit_s = slack * limit_ms / 1e3
    if prospect.ttft_s <= limit_s or prospect.alone_s > limit_s:
        return None
    return ResourceExhausted(
        f"the first token is expected after {prospect.ttft_s:.2f} s, later than the {limit_ms / 1e3:g} s asked for",
        retry_after_s=sensible_retry_s(prospect.ttft_s - limit_s),
    )


def _too_slow(submit: Submit, prospect: Prospect, slack: float) -> SageError | None:
    """Refuse what would decode too slowly; try again when as many as are too much have come to their ends."""
    limit_ms = submit.slo.itl_ms
    if limit_ms is None:
        return None
    limit_s = slack * limit_ms / 1e3
    if prospect.itl_s <= limit_s or prospect.alone_itl_s > limit_s:
        return None
    too_many = 1.0 - limit_s / prospect.itl_s
    return ResourceExhausted(
        f"a token is expected every {prospect.itl_s * 1e3:.1f} ms, slower than the {limit_ms:g} ms asked for",
        retry_after_s=sensible_retry_s(too_many * prospect.answer * prospect.itl_s),
    )


def _too_dear(submit: Submit, prospect: Prospect) -> SageError | None:
    """Refuse what would not be worth its harm: together with its own chance it is expected to bring hardly one SLO more
    that is met than it makes others miss. Half an answer later others have come to their ends."""
    slo = submit.slo
    is_first_hopeless = slo.ttft_ms is not None and prospect.alone_s > slo.ttft_ms / 1e3
    is_pace_hopeless = slo.itl_ms is not None and prospect.alone_itl_s > slo.itl_ms / 1e3
    if (
        (slo.ttft_ms is None and slo.itl_ms is None)
        or is_first_hopeless
        or is_pace_hopeless
        or 1.0 - prospect.missed >= LEAST_GAIN
    ):
        return None
    return ResourceExhausted(
        f"{prospect.missed:.2f} SLOs are expected to be missed for this request, its own and those of others",
        retry_after_s=sensible_retry_s(0.5 * prospect.answer * prospect.itl_s),
    )
