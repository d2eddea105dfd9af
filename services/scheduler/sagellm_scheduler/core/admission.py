"""What is refused at once: what no engine can hold, more than the queue takes, and what would come too late or cost
too much."""

from sagellm_common.contracts.scheduling import Submit
from sagellm_common.errors import InvalidArgument, NotFound, ResourceExhausted, SageError
from sagellm_scheduler.core.estimates import context_tokens, sensible_retry_s
from sagellm_scheduler.core.fleet import Fleet
from sagellm_scheduler.core.requests import Prospect


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
    after it; for the sake of others. What even an idle engine cannot do in time is served as well as can be.
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
    return _too_late(submit, prospect, slack) or _too_slow(submit, prospect, slack)


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
