"""The published contract of the bus is what the code says."""

from tools.make_asyncapi import TARGET, render


def test_the_asyncapi_document_is_current() -> None:
    """docs/asyncapi.yaml is what `python -m tools.make_asyncapi` writes now."""
    assert TARGET.read_text() == render(), "run `python -m tools.make_asyncapi` and commit the result"
