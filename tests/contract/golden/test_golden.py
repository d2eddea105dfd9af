"""Golden messages: bytes of every released version decode to the same values for ever.

`python -m pytest tests/contract/golden` with SAGELLM_WRITE_GOLDEN=1 writes the file of the current version once.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from contract.golden.samples import SAMPLES

from sagellm_common.codec import decode, encode
from sagellm_common.contracts.base import Message
from sagellm_common.contracts.catalog import message_types
from sagellm_common.contracts.packed import Packed
from sagellm_common.version import __version__

HERE = Path(__file__).parent
TYPES = {cls.__name__: cls for cls in message_types()}


def _plain(message: Message | Packed) -> Any:
    body = message.to_array() if isinstance(message, Packed) else message.model_dump(mode="json", exclude_none=True)
    return json.loads(json.dumps(body, default=bytes.hex))


def _write(path: Path) -> None:
    golden = {type(m).__name__: {"msgpack": encode(m).hex(), "value": _plain(m)} for m in SAMPLES}
    path.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")


def _holds(now: Any, then: Any) -> bool:
    """Whether everything that was there is there unchanged; fields may have been added, to arrays at their ends."""
    if isinstance(now, list) and isinstance(then, list):
        return len(now) >= len(then) and all(map(_holds, now, then))
    if isinstance(now, dict) and isinstance(then, dict):
        return all(key in now and _holds(now[key], value) for key, value in then.items())
    return bool(now == then)


def test_every_message_type_has_a_sample() -> None:
    """No message type of the contract is without a golden message."""
    assert {type(sample).__name__ for sample in SAMPLES} == set(TYPES)


def test_the_current_version_has_golden_messages() -> None:
    """The version in the tree has its golden file, and it holds every type."""
    path = HERE / f"v{__version__}.json"
    if os.environ.get("SAGELLM_WRITE_GOLDEN"):
        _write(path)
    assert set(json.loads(path.read_text())) == set(TYPES)


@pytest.mark.parametrize("path", sorted(HERE.glob("v*.json")), ids=lambda path: path.stem)
def test_golden_messages_of_every_version_decode(path: Path) -> None:
    """What an older sender wrote holds the same values today: each recorded field, unchanged."""
    for name, golden in json.loads(path.read_text()).items():
        assert _holds(_plain(decode(TYPES[name], bytes.fromhex(golden["msgpack"]))), golden["value"]), name


def test_what_is_written_today_is_what_is_golden() -> None:
    """The bytes of the current version have not changed by accident."""
    golden = json.loads((HERE / f"v{__version__}.json").read_text())
    for sample in SAMPLES:
        assert encode(sample).hex() == golden[type(sample).__name__]["msgpack"], type(sample).__name__
