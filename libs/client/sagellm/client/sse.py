"""Server-sent events of an OpenAI-shaped stream, turned into chunks; nothing here does I/O."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from sagellm.client.results import Chunk, Completion
from sagellm_common.errors import ERRORS, Internal, SageError, Unavailable, error_from_dict

M = TypeVar("M", Chunk, Completion)
DONE = "[DONE]"


class SseReader:
    """Takes the lines of a stream; `done` becomes true with `[DONE]`."""

    def __init__(self) -> None:
        self.request_id: str | None = None
        self.done = False

    def take(self, line: str) -> Chunk | None:
        """Return the chunk in this line; None for comments and blank lines. Raises the error that it carries."""
        if not line.startswith("data:"):
            return None
        data = line[5:].strip()
        if data == DONE:
            self.done = True
            return None
        chunk = parse(Chunk, data.encode())
        self.request_id = self.request_id or chunk.id
        return chunk

    def ended(self) -> None:
        """The connection has ended; raises Unavailable if the answer has not."""
        if not self.done:
            raise Unavailable("the connection broke before the answer was complete; send the request again")


def parse(cls: type[M], data: bytes) -> M:
    """Decode one JSON body; an error in it is raised as the error it names."""
    try:
        body = json.loads(data)
        if isinstance(body, dict) and body.get("error"):
            raise error_of(500, body, {})
        return cls.model_validate(body)
    except (ValueError, ValidationError) as error:
        raise Internal("the server sent something that is no valid answer; is it a sageLLM gateway?") from error


def error_of(status: int, body: object, headers: Mapping[str, str]) -> SageError:
    """Return the error that a response of HTTP status `status` means; its `code` decides, else the status."""
    found = body.get("error") if isinstance(body, dict) else None
    details: dict[str, Any] = found if isinstance(found, dict) else {}
    code = details.get("code") if details.get("code") in ERRORS else details.get("type")
    if code not in ERRORS:
        code = next((cls.code for cls in ERRORS.values() if cls.http_status == status), "internal")
    message = details.get("message") or f"the server answered with HTTP status {status}"
    return error_from_dict(
        {
            "code": code,
            "message": message,
            "param": details.get("param"),
            "retry_after_s": details.get("retry_after_s") or _seconds(headers.get("retry-after")),
        }
    )


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:  # a date; the clocks may differ, so it is left out
        return None
