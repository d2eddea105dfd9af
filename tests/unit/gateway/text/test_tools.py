"""The streaming parser of tool calls."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_common.contracts.generate import ToolCall
from sagellm_gateway.text.tools import ToolCallParser

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


def run(chunks: list[str]) -> tuple[str, list[ToolCall]]:
    parser = ToolCallParser()
    results = [parser.push(chunk) for chunk in chunks]
    results.append(parser.flush())
    return "".join(text for text, _ in results), [call for _, calls in results for call in calls]


def cut(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(c % (len(text) + 1) for c in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


cuts_lists = st.lists(st.integers(0, 400), max_size=12)


@given(cuts=cuts_lists)
def test_calls_come_out_of_the_text_whatever_the_chunks(cuts: list[int]) -> None:
    """Text stays text, both calls are found with their arguments, and ids differ."""
    text, calls = run(cut(f"Let me look <b>.{CALL}\n{CALL}\n", cuts))
    assert text == "Let me look <b>."
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("weather", {"city": "Köln"})] * 2
    assert all(call.id.startswith("call_") for call in calls)
    assert calls[0].id != calls[1].id


@given(cuts=cuts_lists)
def test_no_part_of_a_tag_is_shown(cuts: list[int]) -> None:
    """While a call is under way nothing of its tag has been shown."""
    parser = ToolCallParser()
    for chunk in cut(f"a{CALL}b", cuts):
        assert "<" not in parser.push(chunk)[0]


@given(
    chunks=st.lists(
        st.sampled_from(["<", "<tool", "_call>", "</tool_call>", "<tool_call>", "{", "}", "a", " ", '{"name": "f"}']),
        max_size=12,
    )
)
def test_chunking_makes_no_difference(chunks: list[str]) -> None:
    """Any text gives the same shown text and the same calls whole and in pieces."""
    text, calls = run(chunks)
    whole_text, whole_calls = run(["".join(chunks)])
    assert text == whole_text
    assert [call.name for call in calls] == [call.name for call in whole_calls]


@pytest.mark.parametrize(
    "body",
    [
        "{not json",
        "[1]",
        '{"arguments": {}}',
        '{"name": ""}',
        '{"name": 3}',
        '{"name": "f", "arguments": [1]}',
        "[" * 9999,
    ],
)
def test_what_is_no_call_comes_back_as_text(body: str) -> None:
    """Malformed JSON, a missing name or arguments that are no object are shown as they are."""
    text = f"<tool_call>{body}</tool_call> after"
    assert run([text]) == (text, [])


def test_an_unclosed_call_counts_when_it_is_complete() -> None:
    """A model that ends without the closing tag has still called; half a call is text."""
    text, calls = run(['<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}'])
    assert (text, calls[0].name, json.loads(calls[0].arguments)) == ("", "f", {"x": 1})
    assert run(['<tool_call>{"name": "f"']) == ('<tool_call>{"name": "f"', [])


def test_a_call_without_arguments_has_none() -> None:
    """A missing `arguments` is an empty object."""
    assert run(['<tool_call>{"name": "now"}</tool_call>'])[1][0].arguments == "{}"
