"""Downloads asked for over the bus."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

from sagellm_common.bus import Bus
from sagellm_common.contracts.registry import ModelInfo
from sagellm_common.errors import Cancelled
from sagellm_common.subjects import Subjects
from sagellm_registry.downloads import MAX_AT_ONCE, Downloads
from sagellm_registry.metrics import RegistryMetrics
from sagellm_registry.store import ModelStore
from support.wait import eventually


class _SlowStore:
    """A hub that sends nothing until the download is stopped."""

    def __init__(self) -> None:
        self.begun = 0

    def download_model(self, model_id: str, revision: str, *, stop: threading.Event, **rest: Any) -> ModelInfo:
        self.begun += 1
        stop.wait(30)
        raise Cancelled("stopped")


class _Bus:
    """Takes every event."""

    settings = SimpleNamespace(subjects=Subjects("test"))

    async def publish(self, subject: str, message: Any) -> None:
        """Nobody listens."""


async def test_many_downloads_leave_the_other_threads_alone() -> None:
    """However many are wanted, a few run at once, work in other threads goes on, and closing ends them all."""
    store = _SlowStore()
    downloads = Downloads(cast(Bus, _Bus()), cast(ModelStore, store), RegistryMetrics())
    for number in range(100):
        assert downloads.start(f"org/model-{number}", None)
    await eventually(lambda: store.begun == MAX_AT_ONCE, what="the first downloads")
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "answered"), 5) == "answered"
    assert store.begun == MAX_AT_ONCE
    await asyncio.wait_for(downloads.close(), 10)
    assert not downloads.is_running("org/model-0", None)
