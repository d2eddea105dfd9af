"""What surrounds a message: limits of a subscription, sender's headers, payload check, error replies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from nats.aio.msg import Msg

from sagellm_common.codec import CONTENT_TYPE, JSON, MSGPACK, M, content_type_of, decode, encode
from sagellm_common.contracts.base import Message
from sagellm_common.contracts.packed import Packed
from sagellm_common.errors import PayloadTooLarge, SageError, error_from_dict

Headers = Mapping[str, str]
AnyMessage = Message | Packed
Reply = TypeVar("Reply", bound=Message | Packed)

ERROR_TEXT, ERROR_STATUS = "Nats-Service-Error", "Nats-Service-Error-Code"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait in a subscription before messages are dropped and counted; 0 bytes is no limit."""

    messages: int = 65_536
    size_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Received:
    """Where a message came from: its subject, where a reply goes, its headers."""

    subject: str
    reply: str
    headers: Headers

    @property
    def content_type(self) -> str:
        return content_type_of(self.headers)

    @classmethod
    def of(cls, msg: Msg) -> "Received":
        return cls(msg.subject, msg.reply, msg.headers or {})


class ErrorBody(Message):
    """Body of an error reply: `error` is the wire form of an error."""

    error: dict[str, object]


def headers_size(headers: Headers) -> int:
    """Bytes that NATS needs for these headers; the server counts them into the payload, nats-py does not."""
    if not headers:
        return 0
    return len(b"NATS/1.0\r\n\r\n") + sum(len(k.encode()) + len(v.encode()) + 4 for k, v in headers.items())


def check_payload(data: bytes, headers: Headers, max_payload: int) -> None:
    """Raise PayloadTooLarge if the server would drop the connection over this message."""
    size = len(data) + headers_size(headers)
    if size > max_payload:
        raise PayloadTooLarge(f"the message has {size} bytes with its headers, the bus takes {max_payload} at most")


def encode_error(error: SageError, content_type: str) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an error reply, in the form that nats.micro clients understand too."""
    text = " ".join(error.message.split())
    headers = {ERROR_TEXT: text, ERROR_STATUS: str(error.http_status)}
    if content_type == JSON:
        headers[CONTENT_TYPE] = JSON
    return encode(ErrorBody(error=error.to_dict()), content_type), headers


def decode_reply(cls: type[M], msg: Msg) -> M:
    """Decode a reply; an error reply is raised as the error it carries."""
    headers = msg.headers or {}
    content_type = content_type_of(headers)
    if ERROR_STATUS in headers:
        raise error_from_dict(decode(ErrorBody, msg.data, content_type).error)
    return decode(cls, msg.data, content_type)


def content_headers(content_type: str) -> dict[str, str]:
    """Headers that name the content type; msgpack is what a missing header means."""
    return {} if content_type == MSGPACK else {CONTENT_TYPE: content_type}
