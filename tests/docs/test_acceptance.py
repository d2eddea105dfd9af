"""The acceptance list names the tests that show its rows."""

from tools.make_acceptance import ROW, TARGET, marked_tests, render


def test_the_acceptance_list_is_current() -> None:
    """docs/acceptance.md names exactly the tests that carry its markers."""
    text = TARGET.read_text()
    assert text == render(text), "run `python -m tools.make_acceptance` and commit the result"


def test_every_marker_names_a_row_of_the_list() -> None:
    """A marker with a row that does not exist is a mistake."""
    rows = {match[1] for line in TARGET.read_text().splitlines() if (match := ROW.match(line))}
    assert set(marked_tests()) <= rows
