"""From a body to what the gateway is asked for: whatever the body, a plan or a typed error."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from sagellm_common.errors import InvalidArgument, NotImplementedByServer
from sagellm_gateway.http.app import APIS
from sagellm_gateway.http.schemas.chat import ChatRequest
from sagellm_gateway.http.schemas.completions import CompletionRequest

NAMES = sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, "unknown"})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "robot"]), "content": VALUES})


def plan_or_refuse(path: str, body: bytes) -> None:
    try:
        plan = APIS[path].plan(body, Headers())
    except (InvalidArgument, NotImplementedByServer):
        return
    assert plan.requests


@given(path=st.sampled_from(sorted(APIS)), body=st.binary(max_size=60))
def test_any_bytes_give_a_typed_error(path: str, body: bytes) -> None:
    """Bytes that are no request end in a typed error."""
    plan_or_refuse(path, body)


@given(
    path=st.sampled_from(sorted(APIS)),
    body=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6),
    prompt=VALUES | st.just("hi"),
    messages=st.lists(MESSAGE, max_size=2),
)
def test_any_json_gives_a_plan_or_a_typed_error(path: str, body: dict[str, Any], prompt: Any, messages: Any) -> None:
    """Any value in any field is either planned or refused by name."""
    plan_or_refuse(path, json.dumps({"prompt": prompt, "messages": messages} | body).encode())
