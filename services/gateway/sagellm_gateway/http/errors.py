"""The one place where an error becomes an HTTP answer, in OpenAI's shape."""

import math
from typing import Any
from uuid import uuid4

import orjson
from starlette.responses import Response
from starlette.types import Send

from sagellm_common.errors import NotImplementedByServer, SageError

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_type(status: int) -> str:
    """OpenAI's word for a class of errors."""
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def error_body(error: SageError) -> bytes:
    """The JSON body `{"error": {"message", "type", "param", "code"}}`."""
    details: dict[str, Any] = {
        "message": error.message,
        "type": error_type(error.http_status),
        "param": error.param,
        "code": error.code,
    }
    return orjson.dumps({"error": details})


def error_headers(error: SageError, request_id: str | None = None) -> list[tuple[bytes, bytes]]:
    """Headers of an error's answer: its type, a request id, and when to try again."""
    headers = [(b"content-type", b"application/json"), (b"x-request-id", (request_id or uuid4().hex).encode())]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    if isinstance(error, NotImplementedByServer):
        headers.append((b"x-should-retry", b"false"))  # OpenAI's clients repeat every other answer over 499
    return headers


def error_response(error: SageError, status: int | None = None) -> Response:
    """An error as a response object; `status` replaces the error's own."""
    response = Response(error_body(error), status_code=status or error.http_status)
    response.raw_headers += error_headers(error)
    return response


async def send_error(send: Send, error: SageError, request_id: str | None = None, *, close: bool = False) -> None:
    """Answer with an error, nothing having been sent before; `close` ends the connection too."""
    body = error_body(error)
    headers = [*error_headers(error, request_id), (b"content-length", str(len(body)).encode())]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
