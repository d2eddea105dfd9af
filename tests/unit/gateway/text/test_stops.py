"""Stop strings against the naive definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_common.errors import InvalidArgument
from sagellm_gateway.text.stops import MAX_STOP_CHARS, StopMatcher


def naive(text: str, stops: list[str], include: bool) -> tuple[str, bool]:
    """The definition: end at the first character that completes a stop; the longest of those complete there counts."""
    for end in range(1, len(text) + 1):
        matching = [stop for stop in stops if text[:end].endswith(stop)]
        if matching:
            return text[: end if include else end - max(map(len, matching))], True
    return text, False


letters = st.text(alphabet="ab", max_size=20)
stop_lists = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), max_size=4)


@given(chunks=st.lists(letters, max_size=8), stops=stop_lists, include=st.booleans())
def test_any_chunking_gives_what_the_definition_says(chunks: list[str], stops: list[str], include: bool) -> None:
    """The shown text and the end are the naive definition's, however the text is cut."""
    matcher = StopMatcher(stops, include)
    shown, stopped = "", False
    for chunk in chunks:
        text, stopped = matcher.push(chunk)
        shown += text
    shown += matcher.flush()
    assert (shown, stopped) == naive("".join(chunks), stops, include)


@given(text=letters, stops=stop_lists)
def test_only_a_possible_beginning_of_a_stop_is_held_back(text: str, stops: list[str]) -> None:
    """What is held back is the longest end of the text that begins a stop string, never more."""
    shown, stopped = StopMatcher(stops).push(text)
    if not stopped:
        possible = [k for k in range(len(text) + 1) if any(stop.startswith(text[len(text) - k :]) for stop in stops)]
        assert len(text) - len(shown) == max(possible, default=0)


def test_after_the_end_nothing_more_is_shown() -> None:
    """A matcher that has stopped stays stopped."""
    matcher = StopMatcher(["."])
    assert matcher.push("one. two") == ("one", True)
    assert matcher.push("three") == ("", True)
    assert matcher.flush() == ""


@pytest.mark.parametrize("stop", ["", "x" * (MAX_STOP_CHARS + 1)])
def test_an_absurd_stop_string_is_refused(stop: str) -> None:
    """An empty or an overlong stop string is an invalid argument that names the parameter."""
    with pytest.raises(InvalidArgument) as caught:
        StopMatcher(["fine", stop])
    assert caught.value.param == "stop"
