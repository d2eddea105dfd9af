"""Stacks of mock engines that a test may break."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sagellm_common.settings import BusSettings
from support.stack import LocalStack


@pytest.fixture
def broken_stack(bus_settings: BusSettings, tmp_path: Path) -> Iterator[LocalStack]:
    """A stack on the shared server in a deployment of its own; the test starts what it needs."""
    stack = LocalStack(bus_settings, tmp_path)
    yield stack
    stack.stop()
