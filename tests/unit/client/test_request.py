"""What the user says becomes a request, or a clear refusal before anything is sent."""

import pytest

from sagellm.client.request import build_request, http_request
from sagellm_common.errors import InvalidArgument

MESSAGES = [{"role": "user", "content": "hi"}]


def test_options_go_where_they_belong() -> None:
    """Sampling options, stop strings and the rest are sorted into the request; `timeout_s` stays here."""
    options = {"model": "m", "max_tokens": 5, "temperature": 0.0, "stop": "x", "timeout_s": 2.0}
    request, timeout_s = build_request("hello", None, options)
    assert (request.model, request.prompt, request.stop, timeout_s) == ("m", "hello", ["x"], 2.0)
    assert (request.sampling.max_tokens, request.sampling.temperature) == (5, 0.0)


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    """A misspelled option is an error that lists what may be said."""
    with pytest.raises(InvalidArgument, match=r"unknown option 'max_token'; known are .*max_tokens"):
        build_request("hello", None, {"max_token": 5})


@pytest.mark.parametrize("options", [{"temperature": -1}, {"max_tokens": 0}, {"n": 1000}, {"stop": ["x"] * 1000}])
def test_a_wrong_value_is_refused(options: dict[str, object]) -> None:
    """A value out of its range raises InvalidArgument that names the field."""
    with pytest.raises(InvalidArgument) as caught:
        build_request("hello", None, options)
    assert next(iter(options)) in (caught.value.param or "")


def test_exactly_one_input() -> None:
    """Neither prompt nor messages, or both, is refused."""
    for prompt, messages in ((None, None), ("a", MESSAGES)):
        with pytest.raises(InvalidArgument, match="exactly one"):
            build_request(prompt, messages, {})


def test_the_http_body_has_only_what_was_said() -> None:
    """The server's defaults hold for everything that is left out."""
    path, body = http_request(build_request("hello", None, {"max_tokens": 3})[0], stream=False)
    assert (path, body) == ("/v1/completions", {"prompt": "hello", "max_tokens": 3, "stream": False})


def test_a_chat_over_http_is_openais_chat() -> None:
    """Messages go to the chat path, log-probabilities in the chat's own form, and a stream asks for its usage."""
    path, body = http_request(build_request(None, MESSAGES, {"logprobs": 2, "logit_bias": {7: 1.5}})[0], stream=True)
    assert path == "/v1/chat/completions"
    assert body["messages"] == MESSAGES
    assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
    assert body["logit_bias"] == {"7": 1.5}
    assert body["stream_options"] == {"include_usage": True}
