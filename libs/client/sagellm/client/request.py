"""Building requests from what the user says; a wrong value is refused before anything is sent."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, get_type_hints

from pydantic import ValidationError

from sagellm_common.codec import validation_error
from sagellm_common.contracts.generate import GenerateRequest
from sagellm_common.contracts.sampling import SamplingOptions
from sagellm_common.errors import InvalidArgument

Prompt = str | Sequence[int]
ChatMessages = Sequence[Mapping[str, Any]]


class GenerateOptions(TypedDict, total=False):
    """What can be said about a request besides its input; what is left out has the server's default."""

    model: str | None
    max_tokens: int | None
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    logprobs: int | None
    n: int
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    stop: str | Sequence[str]
    include_stop: bool
    return_token_ids: bool
    tools: Sequence[Mapping[str, Any]]
    slo: Mapping[str, float]
    priority: int
    cost_budget: float
    user: str
    session: str
    client_request_id: str
    timeout_s: float


_SAMPLING = frozenset(SamplingOptions.model_fields)
_KNOWN = frozenset(get_type_hints(GenerateOptions))


def build_request(
    prompt: Prompt | None, messages: ChatMessages | None, options: Mapping[str, Any]
) -> tuple[GenerateRequest, float | None]:
    """Return the request, and the `timeout_s` that was asked for; raises InvalidArgument."""
    for name in options:
        if name not in _KNOWN:
            raise InvalidArgument(f"unknown option {name!r}; known are {', '.join(sorted(_KNOWN))}", param=name)
    fields = {k: v for k, v in options.items() if v is not None and k != "timeout_s"}
    sampling = {k: fields.pop(k) for k in list(fields) if k in _SAMPLING}
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    if prompt is not None:
        fields["prompt"] = prompt if isinstance(prompt, str) else list(prompt)
    if messages is not None:
        fields["messages"] = list(messages)
    if sampling:
        fields["sampling"] = sampling
    try:
        return GenerateRequest.model_validate(fields), options.get("timeout_s")
    except ValidationError as error:
        raise validation_error(error) from error


def http_request(request: GenerateRequest, *, stream: bool) -> tuple[str, dict[str, Any]]:
    """Return path and body of the OpenAI request that means the same; only what was set is sent."""
    body = request.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    body.update(body.pop("sampling", {}))
    if (bias := body.get("logit_bias")) is not None:
        body["logit_bias"] = {str(token): value for token, value in bias.items()}
    body["stream"] = stream
    if stream:
        body["stream_options"] = {"include_usage": True}
    if request.messages is None:
        return "/v1/completions", body
    if (top := body.pop("logprobs", None)) is not None:
        body["logprobs"], body["top_logprobs"] = True, top
    return "/v1/chat/completions", body
