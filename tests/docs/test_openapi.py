"""The published HTTP API is what the code says."""

from tools.make_openapi import TARGET, render


def test_the_openapi_document_is_current() -> None:
    """docs/openapi.json is what `python -m tools.make_openapi` writes now."""
    assert TARGET.read_text() == render(), "run `python -m tools.make_openapi` and commit the result"
