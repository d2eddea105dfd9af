"""What one HTTP request asks the gateway for, and how its answer is to be shown."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import Headers

from sagellm_common.codec import validation_error
from sagellm_common.contracts.generate import GenerateRequest
from sagellm_common.contracts.sampling import SamplingOptions
from sagellm_common.errors import InvalidArgument, NotImplementedByServer
from sagellm_gateway.http.body import slo_of
from sagellm_gateway.http.schemas.chat import ChatRequest
from sagellm_gateway.http.schemas.completions import MAX_PROMPTS, CompletionRequest
from sagellm_gateway.http.schemas.fields import GenerationFields


@dataclass(frozen=True, slots=True)
class Plan:
    """One GenerateRequest for each prompt, and the form of the answer."""

    requests: list[GenerateRequest]
    stream: bool
    include_usage: bool
    return_token_ids: bool


def plan_chat(body: ChatRequest, headers: Headers) -> Plan:
    """Plan a chat; raises NotImplementedByServer for what is known and not offered."""
    if body.tool_choice not in ("none", "auto"):
        raise NotImplementedByServer(
            "tool_choice can be none or auto; this server cannot force a tool to be called", param="tool_choice"
        )
    if body.top_logprobs and not body.logprobs:
        raise InvalidArgument("top_logprobs needs logprobs to be true", param="top_logprobs")
    tools = [tool.model_dump(exclude_unset=True) for tool in body.tools]
    changes = {
        "max_tokens": body.max_completion_tokens or body.max_tokens,
        "logprobs": body.top_logprobs if body.logprobs else None,
    }
    offered = tools if tools and body.tool_choice == "auto" else None
    return _plan(body, [_request(body, headers, changes, messages=body.messages, tools=offered)])


def plan_completion(body: CompletionRequest, headers: Headers) -> Plan:
    """Plan completions; raises NotImplementedByServer for what is known and not offered."""
    for name, value in (("echo", body.echo), ("suffix", body.suffix), ("best_of", (body.best_of or body.n) != body.n)):
        if value:
            raise NotImplementedByServer(f"{name} is not offered by this server; leave it out", param=name)
    prompts = body.prompts
    if len(prompts) > MAX_PROMPTS:
        raise InvalidArgument(f"at most {MAX_PROMPTS} prompts go into one request", param="prompt")
    return _plan(body, [_request(body, headers, {}, prompt=prompt) for prompt in prompts])


def _plan(body: GenerationFields, requests: list[GenerateRequest]) -> Plan:
    return Plan(requests, body.stream, body.stream_options.include_usage, body.return_token_ids)


def _request(body: GenerationFields, headers: Headers, changes: dict[str, Any], **what: Any) -> GenerateRequest:
    if body.response_format.type != "text":
        raise NotImplementedByServer(
            f"response_format {body.response_format.type} is not offered by this server; ask for JSON in the prompt",
            param="response_format",
        )
    sampling = {name: getattr(body, name) for name in SamplingOptions.model_fields} | changes
    try:
        return GenerateRequest(
            model=body.model,
            sampling=SamplingOptions(**sampling),
            stop=body.stops,
            include_stop=body.include_stop,
            return_token_ids=body.return_token_ids,
            slo=slo_of(headers, body.slo),
            priority=body.priority,
            cost_budget=body.cost_budget,
            user=body.user,
            session=body.session,
            client_request_id=body.client_request_id or headers.get("x-client-request-id"),
            **what,
        )
    except ValidationError as error:
        raise validation_error(error) from error
