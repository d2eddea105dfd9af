"""Replies on NATS become chunks, and none may be missing."""

import pytest

from sagellm.client.gather import Gatherer
from sagellm.client.replies import ReplyReader
from sagellm_common.contracts.generate import GenerateReply, ToolCall, Usage
from sagellm_common.errors import ResourceExhausted, Unavailable


def reply(seq: int, text: str = "", **fields: object) -> GenerateReply:
    return GenerateReply.model_validate({"request_id": "r", "seq": seq, "text": text, "model": "m", **fields})


def read(*replies: GenerateReply, is_chat: bool = False) -> str:
    reader, gatherer = ReplyReader(is_chat, 0), Gatherer(is_chat)
    for each in replies:
        chunk = reader.take(each)
        if chunk is not None:
            gatherer.add(chunk)
    assert reader.done
    return gatherer.build().text


def test_text_of_all_replies_is_joined() -> None:
    """The whole answer is the text of the replies in their order."""
    usage = Usage(prompt_tokens=1, completion_tokens=2)
    assert read(reply(0), reply(1, "a"), reply(2, "b", finish_reason="stop"), reply(3, final=True, usage=usage)) == "ab"


def test_a_missing_reply_is_an_error() -> None:
    """A gap in the numbers raises Unavailable that names the lost replies, instead of giving wrong text."""
    reader = ReplyReader(is_chat=False, created=0)
    reader.take(reply(0, "a"))
    with pytest.raises(Unavailable, match="replies 1 to 2 of request r were lost"):
        reader.take(reply(3, "d"))


def test_a_reply_that_comes_twice_counts_once() -> None:
    """Duplicates add nothing."""
    assert read(reply(0, "a"), reply(0, "a"), reply(1, "b", final=True), reply(1, "b", final=True)) == "ab"


def test_an_error_reply_is_raised_as_the_error_it_names() -> None:
    """The final reply's error comes out typed with its fields, even after a gap."""
    reader = ReplyReader(is_chat=False, created=0)
    error = ResourceExhausted("full", retry_after_s=3.0).to_dict()
    with pytest.raises(ResourceExhausted) as caught:
        reader.take(reply(7, final=True, error=error))
    assert caught.value.retry_after_s == 3.0
    assert reader.done


def test_an_empty_reply_tells_the_id_alone() -> None:
    """The first reply names the request before there is any text."""
    reader = ReplyReader(is_chat=True, created=0)
    assert reader.take(reply(0)) is None
    assert reader.request_id == "r"


def test_tool_calls_come_in_openais_shape() -> None:
    """A chat's tool calls are in the message, with name and arguments under `function`."""
    reader, gatherer = ReplyReader(is_chat=True, created=0), Gatherer(is_chat=True)
    calls = [ToolCall(id="c1", name="add", arguments='{"a": 1}'), ToolCall(id="c2", name="sub", arguments="{}")]
    last = reply(0, tool_calls=[call.model_dump() for call in calls], finish_reason="tool_calls", final=True)
    chunk = reader.take(last)
    assert chunk is not None
    gatherer.add(chunk)
    message = gatherer.build().choices[0].message
    assert message is not None
    assert [call["function"]["name"] for call in message.tool_calls or []] == ["add", "sub"]
    assert (message.tool_calls or [])[0]["id"] == "c1"


def test_choices_are_kept_apart() -> None:
    """Replies of several choices, interleaved, give each choice its own text and end."""
    reader, gatherer = ReplyReader(is_chat=False, created=0), Gatherer(is_chat=False)
    for seq, (choice, text) in enumerate([(0, "a"), (1, "x"), (0, "b"), (1, "y")]):
        chunk = reader.take(reply(seq, text, choice=choice, finish_reason="stop" if seq > 1 else None))
        assert chunk is not None
        gatherer.add(chunk)
    assert [choice.text for choice in gatherer.build().choices] == ["ab", "xy"]
    assert all(choice.finish_reason == "stop" for choice in gatherer.build().choices)
