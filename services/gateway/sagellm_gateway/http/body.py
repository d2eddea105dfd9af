"""Reading a request's body and headers; nothing of a body beyond the limit is kept."""

import asyncio
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.types import Receive

from sagellm_common.codec import validation_error
from sagellm_common.contracts.slo import Slo
from sagellm_common.errors import Cancelled, DeadlineExceeded, InvalidArgument, PayloadTooLarge

MAX_BODY_BYTES = 8 * 1024 * 1024
BODY_TIMEOUT_S = 30.0
_SLO_HEADERS = {"ttft_ms": "x-slo-ttft-ms", "itl_ms": "x-slo-itl-ms", "deadline_ms": "x-slo-deadline-ms"}

M = TypeVar("M", bound=BaseModel)


async def read_body(headers: Headers, receive: Receive, limit_bytes: int) -> bytes:
    """Read the whole body.

    Raises PayloadTooLarge as soon as more than `limit_bytes` are announced or have come, DeadlineExceeded when the
    end has not come after `BODY_TIMEOUT_S`, and Cancelled when the client goes away before.
    """
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read(receive, limit_bytes)
    except TimeoutError as error:
        raise DeadlineExceeded(f"the body was not complete after {BODY_TIMEOUT_S:g} s") from error


async def _read(receive: Receive, limit_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("the client went away before its request was complete")
        body += message.get("body", b"")
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit_bytes} bytes, the most that this server takes")


def parse_body(cls: type[M], body: bytes) -> M:
    """Parse JSON; raises InvalidArgument with a sentence that names the field at fault."""
    try:
        return cls.model_validate_json(body)
    except ValidationError as error:
        raise validation_error(error) from error


def slo_of(headers: Headers, body: Slo) -> Slo:
    """Complete the body's SLO by the headers; raises InvalidArgument that names a wrong header."""
    stated = {name: headers[header] for name, header in _SLO_HEADERS.items() if header in headers}
    if not stated:
        return body
    try:
        return Slo.model_validate(stated | body.model_dump(exclude_none=True))
    except ValidationError as error:
        name = _SLO_HEADERS[str(error.errors()[0]["loc"][0])]
        raise InvalidArgument(f"{name}: a number of milliseconds above 0 is expected", param=name) from error
