"""Reading a model folder's small files; every fault names the file."""

import json
from pathlib import Path
from typing import Any

from sagellm_common.errors import InvalidArgument, NotFound


def read_text(path: Path) -> str:
    """Read one UTF-8 file.

    Raises `NotFound` when it is missing or cannot be read, `InvalidArgument` when it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is damaged: it is not UTF-8 text") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read one JSON object; a missing file counts as an empty one.

    Raises `InvalidArgument` when the file holds anything but a JSON object.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidArgument(f"{path} is damaged: it is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise InvalidArgument(f"{path} is damaged: a JSON object is expected")
    return value
