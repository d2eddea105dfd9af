"""The exception tree and its one mapping to replies."""

import pytest

from sagellm_common.errors import ERRORS, Internal, ResourceExhausted, SageError, as_sage_error, error_from_dict

CODES = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "payload_too_large": 413,
    "resource_exhausted": 429,
    "cancelled": 499,
    "internal": 500,
    "not_implemented": 501,
    "kv_transfer_failed": 502,
    "unavailable": 503,
    "deadline_exceeded": 504,
}


def test_every_code_has_one_class_and_one_status() -> None:
    """The tree has exactly the codes of the contract, each with its HTTP status."""
    assert {code: cls.http_status for code, cls in ERRORS.items()} == CODES


@pytest.mark.parametrize("cls", ERRORS.values())
def test_an_error_survives_the_wire(cls: type[SageError]) -> None:
    """Class, message and fields come back from the wire form."""
    error = error_from_dict(cls("what to do", param="top_p", retry_after_s=1.5).to_dict())
    assert type(error) is cls
    assert (error.message, error.param, error.retry_after_s) == ("what to do", "top_p", 1.5)


def test_an_unknown_code_is_internal_and_keeps_its_name() -> None:
    """A newer peer's code is not lost."""
    error = error_from_dict({"code": "teapot", "message": "short and stout"})
    assert isinstance(error, Internal)
    assert error.message == "teapot: short and stout"


def test_foreign_exceptions_do_not_leak_their_text() -> None:
    """An unexpected exception becomes `internal` with its class named and its message kept in the log."""
    error = as_sage_error(ValueError("a secret prompt"))
    assert error.code == "internal"
    assert "secret" not in error.message
    assert "ValueError" in error.message


def test_known_errors_pass_and_timeouts_are_deadlines() -> None:
    """An error of the tree stays itself; a TimeoutError is deadline_exceeded."""
    full = ResourceExhausted("full", retry_after_s=2.0)
    assert as_sage_error(full) is full
    assert as_sage_error(TimeoutError()).code == "deadline_exceeded"
