"""One codec: messages to bytes and back. msgpack on the wire; JSON where a person publishes by hand.

The header `Content-Type: application/json` marks JSON, anything else is msgpack.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgpack
from pydantic import ValidationError

from sagellm_common.contracts.base import Message
from sagellm_common.contracts.packed import Packed
from sagellm_common.errors import InvalidArgument

CONTENT_TYPE = "Content-Type"
JSON = "application/json"
MSGPACK = "application/msgpack"

M = TypeVar("M", bound=Message | Packed)


def encode(message: Message | Packed, content_type: str = MSGPACK) -> bytes:
    """Encode a message; fields that are None are left out of cold messages. Hot ones are always msgpack.

    Raises InvalidArgument for a number of more than 64 bits.
    """
    if content_type == JSON and isinstance(message, Message):
        return message.model_dump_json(exclude_none=True).encode()
    body = message.to_array() if isinstance(message, Packed) else message.model_dump(mode="python", exclude_none=True)
    try:
        packed: bytes = msgpack.packb(body)
    except OverflowError as error:
        raise InvalidArgument(f"a number in {type(message).__name__} has more than 64 bits") from error
    return packed


def decode(cls: type[M], data: bytes, content_type: str = MSGPACK) -> M:
    """Decode `data` as a `cls`; raises InvalidArgument with a sentence that names the field at fault."""
    try:
        if issubclass(cls, Packed):
            return cls.from_array(msgpack.unpackb(data, strict_map_key=False))
        if content_type == JSON:
            return cls.model_validate_json(data)
        body = msgpack.unpackb(data, strict_map_key=False)
        return cls.model_validate(body)
    except ValidationError as error:
        raise validation_error(error) from error
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        kind = "JSON" if content_type == JSON else "msgpack"
        raise InvalidArgument(f"the body is no valid {kind} for {cls.__name__}: {type(error).__name__}") from error


def validation_error(error: ValidationError) -> InvalidArgument:
    """Turn pydantic's findings into one sentence about the first field at fault; values are not repeated."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    return InvalidArgument(f"{path or 'body'}: {first['msg']}", param=path or None)


def content_type_of(headers: Mapping[str, Any] | None) -> str:
    """Return JSON or MSGPACK, by the header; case does not matter."""
    if not headers:
        return MSGPACK
    value = next((v for k, v in headers.items() if k.lower() == "content-type"), MSGPACK)
    return JSON if str(value).split(";")[0].strip().lower() == JSON else MSGPACK
