"""The codec: what is written is what is read, across versions, and nonsense is a typed error."""

import contextlib
import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_common.codec import JSON, MSGPACK, content_type_of, decode, encode
from sagellm_common.contracts.frames import TokenFrame, TokenItem
from sagellm_common.contracts.generate import GenerateRequest
from sagellm_common.contracts.reports import EngineReport, Gauges, Progress, StepSample
from sagellm_common.contracts.sampling import SamplingOptions
from sagellm_common.contracts.scheduling import Assignment
from sagellm_common.errors import InvalidArgument

items = st.builds(
    TokenItem,
    request_id=st.text(max_size=40),
    epoch=st.integers(0, 9),
    choice=st.integers(0, 127),
    first_index=st.integers(0, 2**31),
    token_ids=st.lists(st.integers(0, 2**20), max_size=5),
    logprobs=st.none() | st.lists(st.just([-0.5, [[3, -0.25]]]), max_size=2),
    finish=st.sampled_from([None, "stop", "length"]),
    error=st.none() | st.just({"code": "internal", "message": "x"}),
)


@given(st.lists(items, max_size=5))
def test_a_frame_survives_the_wire(content: list[TokenItem]) -> None:
    """A token frame that is encoded and decoded equals the original."""
    frame = TokenFrame("e1", "i1", 7, content)
    assert decode(TokenFrame, encode(frame)) == frame


def test_a_report_survives_the_wire_with_all_that_is_nested() -> None:
    """Nested values, lists and maps of hot messages come back as their own types."""
    report = EngineReport(
        "e1",
        "i1",
        3,
        Gauges(10, 5, 2, 1, 4, 100, 200, 0.5),
        [123, 4],
        9,
        steps=[StepSample(0.01, 5, 128, 4, 900, 1280)],
        progress={"g1": [Progress("r1", 0, 0, 12, False)]},
    )
    assert decode(EngineReport, encode(report)) == report


def test_numbers_that_do_not_fit_are_refused_before_the_wire() -> None:
    """An integer of more than 64 bits is a typed error when encoding too."""
    with pytest.raises(InvalidArgument, match="TokenItem"):
        encode(TokenItem("r", 0, 0, 2**70, []))


def test_a_newer_sender_may_add_fields_to_a_hot_message() -> None:
    """Trailing elements that this version does not know are ignored, nested ones too."""
    item = [*TokenItem("r", 0, 0, 0, [1]).to_array(), "new", 1]
    data = msgpack.packb(["e1", "i1", 7, [item], "newer still"])
    assert decode(TokenFrame, data) == TokenFrame("e1", "i1", 7, [TokenItem("r", 0, 0, 0, [1])])


def test_an_older_sender_may_lack_fields_with_defaults() -> None:
    """Missing trailing elements take their defaults; a missing one without default is a typed error."""
    assert decode(TokenItem, msgpack.packb(["r", 0, 0, 5, [1, 2]])).finish is None
    with pytest.raises(InvalidArgument):
        decode(TokenItem, msgpack.packb(["r", 0]))


def test_cold_messages_ignore_unknown_fields_and_leave_out_none() -> None:
    """Unknown fields are ignored; fields that are None do not travel."""
    body = msgpack.packb({"prompt": "hi", "unheard_of": {"a": 1}})
    request = decode(GenerateRequest, body)
    assert request.prompt == "hi"
    assert "messages" not in msgpack.unpackb(encode(request))


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_cold_messages_survive_both_encodings(content_type: str) -> None:
    """JSON and msgpack carry the same message."""
    message = Assignment(
        request_id="r", epoch=1, engine_id="e", incarnation="i", leader_epoch=(5, 6), number=3, dispatch_timeout_ms=10.0
    )
    assert decode(Assignment, encode(message, content_type), content_type) == message


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 1_000_000}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"seed": 2**64}, "seed"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x.[key]"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_token_ids": [1] * 1000}, "stop_token_ids"),
    ],
)
def test_absurd_options_are_refused_by_name(options: dict[str, object], param: str) -> None:
    """An option out of range or of the wrong type is an invalid_argument that names it, without repeating the value."""
    with pytest.raises(InvalidArgument) as caught:
        decode(SamplingOptions, json.dumps(options).encode(), JSON)
    assert caught.value.param == param


def test_a_prompt_and_a_chat_exclude_each_other() -> None:
    """Neither or both of `prompt` and `messages` is refused with a sentence."""
    for body in ({}, {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}):
        with pytest.raises(InvalidArgument, match="exactly one of"):
            decode(GenerateRequest, msgpack.packb(body))


@given(st.binary(max_size=200), st.sampled_from([JSON, MSGPACK]))
def test_any_bytes_decode_or_are_refused_with_the_typed_error(data: bytes, content_type: str) -> None:
    """No input makes the decoder raise anything but InvalidArgument."""
    for cls in (GenerateRequest, TokenFrame, EngineReport):
        with contextlib.suppress(InvalidArgument):
            assert isinstance(decode(cls, data, content_type), cls)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (None, MSGPACK),
        ({}, MSGPACK),
        ({"content-type": "application/json; charset=utf-8"}, JSON),
        ({"Content-Type": "APPLICATION/JSON"}, JSON),
        ({"Content-Type": "text/plain"}, MSGPACK),
    ],
)
def test_the_content_type_header_decides(headers: dict[str, str] | None, expected: str) -> None:
    """Only application/json, in any case and with parameters, means JSON."""
    assert content_type_of(headers) == expected
