"""The exception tree of sageLLM, and the one place where an error becomes a reply.

SageError
 ├── InvalidArgument          invalid_argument      400   the request itself is wrong
 ├── Unauthenticated          unauthenticated       401   no valid key
 ├── PermissionDenied         permission_denied     403   a valid key without the right
 ├── NotFound                 not_found             404   no such model, request or record
 ├── PayloadTooLarge          payload_too_large     413   more bytes or tokens than fit
 ├── ResourceExhausted        resource_exhausted    429   a queue, quota or disk is full; may say when to retry
 ├── Cancelled                cancelled             499   the caller went away or asked to stop
 ├── Internal                 internal              500   a fault of ours
 ├── NotImplementedByServer   not_implemented       501   known, and not offered here
 ├── KvTransferFailed         kv_transfer_failed    502   a KV hand-off did not complete
 ├── Unavailable              unavailable           503   a service, engine or the bus cannot be reached
 └── DeadlineExceeded         deadline_exceeded     504   the time allowed is over

Only the standard library is imported here, so that the engine's core can use it alone.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class SageError(Exception):
    """Root of the tree: a code, a sentence for a person, and optional fields.

    Fields: `message` says what is wrong and what to do; `param` names the offending parameter;
    `retry_after_s` says when to try again, in seconds.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def to_dict(self) -> dict[str, Any]:
        """Return the wire form: `code`, `message`, and the fields that are set."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.param is not None:
            body["param"] = self.param
        if self.retry_after_s is not None:
            body["retry_after_s"] = self.retry_after_s
        return body


class InvalidArgument(SageError):
    """The request itself is wrong; sending it again does not help."""

    code, http_status = "invalid_argument", 400


class Unauthenticated(SageError):
    """No valid key came with the request."""

    code, http_status = "unauthenticated", 401


class PermissionDenied(SageError):
    """The key is valid and lacks the right."""

    code, http_status = "permission_denied", 403


class NotFound(SageError):
    """No such model, request or record."""

    code, http_status = "not_found", 404


class PayloadTooLarge(SageError):
    """More bytes or tokens than the receiver takes."""

    code, http_status = "payload_too_large", 413


class ResourceExhausted(SageError):
    """A queue, a quota or a disk is full."""

    code, http_status = "resource_exhausted", 429


class Cancelled(SageError):
    """The caller went away or asked to stop."""

    code, http_status = "cancelled", 499


class Internal(SageError):
    """A fault of ours."""

    code, http_status = "internal", 500


class NotImplementedByServer(SageError):
    """Known, and not offered by this server."""

    code, http_status = "not_implemented", 501


class KvTransferFailed(SageError):
    """A KV hand-off between engines did not complete."""

    code, http_status = "kv_transfer_failed", 502


class Unavailable(SageError):
    """A service, an engine or the bus cannot be reached at the moment."""

    code, http_status = "unavailable", 503


class DeadlineExceeded(SageError):
    """The time that the request allowed is over."""

    code, http_status = "deadline_exceeded", 504


ERRORS: Mapping[str, type[SageError]] = {cls.code: cls for cls in SageError.__subclasses__()}
"""Every code of the tree, and its class."""


def error_from_dict(body: Mapping[str, Any]) -> SageError:
    """Rebuild an error from its wire form; an unknown code becomes `Internal` and keeps its name in the message."""
    code, message = str(body.get("code", "internal")), str(body.get("message", "no message"))
    cls = ERRORS.get(code)
    if cls is None:
        return Internal(f"{code}: {message}")
    retry_after_s = body.get("retry_after_s")
    return cls(
        message,
        param=body.get("param"),
        retry_after_s=float(retry_after_s) if isinstance(retry_after_s, int | float) else None,
    )


def as_sage_error(error: BaseException) -> SageError:
    """Turn any exception into one of the tree: known ones as they are, the rest as `Internal` with the class named."""
    if isinstance(error, SageError):
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("the operation took longer than allowed")
    return Internal(f"{type(error).__name__} inside the server; its log has the details")
