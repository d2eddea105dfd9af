"""From the contract's dispatch to the core's request."""

from sagellm_common.contracts.dispatch import Dispatch
from sagellm_common.contracts.sampling import SamplingOptions
from sagellm_common.errors import InvalidArgument
from sagellm_engine.core.types import EngineRequest, SamplingParams


def engine_request(dispatch: Dispatch, now: float) -> EngineRequest:
    """Translate a dispatch; raises InvalidArgument if what its gateway must set is missing."""
    deadline = None if dispatch.deadline_ms is None else now + dispatch.deadline_ms / 1e3
    return EngineRequest(
        key=(dispatch.request_id, dispatch.epoch),
        prompt_token_ids=dispatch.prompt_token_ids,
        sampling=sampling_params(dispatch.sampling),
        delivered=tuple(map(tuple, dispatch.delivered)),
        num_choices=dispatch.sampling.n,
        finished_choices=tuple(dispatch.finished_choices),
        priority=int(dispatch.priority),
        deadline=deadline,
        itl_s=None if dispatch.itl_ms is None else dispatch.itl_ms / 1e3,
        group=dispatch.gateway_id,
        arrival=now,
        hold=bool(dispatch.decode_engine),
    )


def first_indexes(request: EngineRequest) -> dict[int, int]:
    """Return the choices that are to be generated, and the index at which each goes on."""
    return {
        choice: len(request.delivered[choice]) if request.delivered else 0
        for choice in range(request.num_choices)
        if choice not in request.finished_choices
    }


def sampling_params(options: SamplingOptions) -> SamplingParams:
    """Translate sampling options; `seed` and `max_tokens` must be set, so that every epoch goes on alike."""
    if options.max_tokens is None or options.seed is None:
        raise InvalidArgument("a dispatch must name max_tokens and seed", param="sampling")
    return SamplingParams(
        max_tokens=options.max_tokens,
        seed=options.seed,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        repetition_penalty=options.repetition_penalty,
        logit_bias=options.logit_bias,
        logprobs=options.logprobs,
        stop_token_ids=options.stop_token_ids,
        ignore_eos=options.ignore_eos,
        min_tokens=options.min_tokens,
    )
