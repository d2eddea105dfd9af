"""What is refused at once: unknown models, prompts that no engine can hold, and more than the queue takes."""

from sagellm_common.contracts.scheduling import Submit
from sagellm_common.errors import InvalidArgument, NotFound, ResourceExhausted, SageError
from sagellm_scheduler.core.estimates import context_tokens
from sagellm_scheduler.core.fleet import Fleet


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
