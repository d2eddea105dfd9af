"""The judges of the evaluation: right is right, and nearly right is wrong."""

import pytest

from builtin_model.corpus.document import Document
from builtin_model.judge import calls_tool, has_keys, has_types, names_everything, solves
from builtin_model.speculation import acceptance

STORY = Document(skill="stories", facts={"words": ["red hat", "fox"]})
SUM = Document(skill="arithmetic", facts={"equation": "17 + 25 = 42"})
SHAPE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "at": {"type": "object", "properties": {"x": {"type": "integer"}}}},
}
OBJECT = Document(skill="json", facts={"schema": SHAPE})
CALL = Document(skill="tools", facts={"name": "get_weather", "arguments": {"city": "Paris"}})


@pytest.mark.parametrize(
    ("text", "right"), [("A fox saw a Red Hat.", True), ("A fox saw a hat.", False), ("A foxy red hat.", False)]
)
def test_stories_must_name_everything(text: str, right: bool) -> None:
    """Every phrase must stand there as whole words."""
    assert names_everything(STORY, text) is right


@pytest.mark.parametrize(
    ("text", "right"),
    [("7 + 5 = 12, 1 + 2 + 1 = 4, so 17 + 25 = 42", True), ("17 + 25 = 42", True), ("17 + 25 = 41", False)],
)
def test_sums_must_be_the_equation(text: str, right: bool) -> None:
    """The answer ends with the whole equation."""
    assert solves(SUM, text) is right


@pytest.mark.parametrize(
    ("text", "keys", "types"),
    [
        ('{"name": "Mia", "at": {"x": 1}}', True, True),
        ('{"name": "Mia", "at": {"x": "1"}}', True, False),
        ('{"name": "Mia", "at": {}}', False, False),
        ('{"name": "Mia", "at": {"x": 1}, "more": 1}', False, False),
        ('{"name": "Mia", "at": {"x": 1}', False, False),
        ("[]", False, False),
    ],
)
def test_json_must_have_exactly_the_keys(text: str, keys: bool, types: bool) -> None:
    """Keys count at every depth, types are counted apart."""
    assert has_keys(OBJECT, text) is keys
    assert has_types(OBJECT, text) is types


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>', True),
        ('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>', False),
        ('<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', False),
        ('{"name": "get_weather", "arguments": {"city": "Paris"}}', False),
        ("<tool_call>\n{\n</tool_call>", False),
    ],
)
def test_calls_must_be_exact(text: str, right: bool) -> None:
    """Name, arguments and tags must all be right."""
    assert calls_tool(CALL, text) is right


def test_acceptance_counts_rounds_of_four() -> None:
    """After a refused proposal the main model's own token is used and the next round starts behind it."""
    assert acceptance([True] * 5) == (4, 4)
    assert acceptance([True] * 6) == (5, 5)
    assert acceptance([True, False, True, True, True, True]) == (5, 8)
    assert acceptance([False, False]) == (0, 3)
