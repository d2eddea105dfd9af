"""The outbox: what waits for storage holds up no message."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from sagellm_common.bus import Bus
from sagellm_common.contracts.decisions import DecisionRecord
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.subjects import Subjects
from sagellm_scheduler.core.actions import PublishRecord
from sagellm_scheduler.service.archive import Archive
from sagellm_scheduler.service.outbox import Outbox

RECORD = DecisionRecord(request_id="r1", model="m", prompt_tokens=1, max_tokens=1, priority=2, decisions=[])


class _Bus:
    """Takes every message."""

    def __init__(self) -> None:
        self.settings = SimpleNamespace(subjects=Subjects("test"))
        self.published = asyncio.Event()

    async def publish(self, subject: str, message: Any) -> None:
        self.published.set()


class _SlowArchive:
    """Storage that answers only when it is let go."""

    def __init__(self) -> None:
        self.asked, self.answers = asyncio.Event(), asyncio.Event()

    async def keep(self, record: DecisionRecord, *, merge: bool) -> None:
        self.asked.set()
        await self.answers.wait()


async def test_a_record_that_waits_for_storage_holds_up_no_message() -> None:
    """While a record is being merged with what is stored, assignments and events go out."""
    bus, archive = _Bus(), _SlowArchive()
    outbox = Outbox(cast(Bus, bus), cast(Archive, archive))
    outbox.start()
    outbox.keep(PublishRecord(RECORD, merge=True))
    await asyncio.wait_for(archive.asked.wait(), 5)
    outbox.tell(RequestEvent(request_id="r1", phase="queued", epoch=0, gateway_id="g1", model="m", time_s=0.0))
    await asyncio.wait_for(bus.published.wait(), 5)
    archive.answers.set()
    await outbox.stop()
