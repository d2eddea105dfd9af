"""Performs the core's actions, in their order, without holding up the core."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from opentelemetry import context
from opentelemetry.context import Context

from sagellm_common.bus import Bus
from sagellm_common.contracts.base import Message
from sagellm_common.contracts.events import RequestEvent
from sagellm_common.errors import SageError
from sagellm_scheduler.core.actions import Assign, Notify, PublishRecord
from sagellm_scheduler.service.archive import Archive

log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Publish:
    """One message, and the trace context in which it is published."""

    subject: str
    message: Message
    context: Context | None = None


class Outbox:
    """Two queues, each worked off by a task of its own: records may wait for storage, messages never wait for them."""

    def __init__(self, bus: Bus, archive: Archive) -> None:
        self._bus, self._archive = bus, archive
        self._subjects = bus.settings.subjects
        self._messages: asyncio.Queue[Publish] = asyncio.Queue()
        self._records: asyncio.Queue[PublishRecord] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(_work_off(self._messages, self._publish)),
            asyncio.create_task(_work_off(self._records, self._keep)),
        ]

    async def stop(self) -> None:
        """Send what waits, within two seconds, and end."""
        try:
            async with asyncio.timeout(2.0):
                await self._messages.join()
                await self._records.join()
        except TimeoutError:
            log.warning("outbox_not_emptied", waiting=self._messages.qsize() + self._records.qsize())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def assign(self, action: Assign, inside: Context | None, time_s: float) -> None:
        """Publish an assignment, and tell observers of it once."""
        assignment = action.assignment
        self._messages.put_nowait(Publish(self._subjects.gateway_assign(action.gateway_id), assignment, inside))
        if not action.is_repeat:
            event = RequestEvent(
                request_id=assignment.request_id,
                phase="assigned",
                epoch=assignment.epoch,
                gateway_id=action.gateway_id,
                engine_id=assignment.engine_id,
                model=action.model,
                time_s=time_s,
                queue_ms=round(action.queued_s * 1e3, 3),
            )
            self.tell(event)

    def notify(self, action: Notify) -> None:
        self._messages.put_nowait(Publish(self._subjects.gateway_notify(action.gateway_id), action.notice))

    def keep(self, action: PublishRecord) -> None:
        self._records.put_nowait(action)

    def tell(self, event: RequestEvent) -> None:
        """Publish an event for observers."""
        self._messages.put_nowait(Publish(self._subjects.request_event(event.phase), event))

    async def _keep(self, action: PublishRecord) -> None:
        await self._archive.keep(action.record, merge=action.merge)

    async def _publish(self, item: Publish) -> None:
        token = context.attach(item.context) if item.context is not None else None
        try:
            await self._bus.publish(item.subject, item.message)
        finally:
            if token is not None:
                context.detach(token)


async def _work_off(waiting: "asyncio.Queue[T]", perform: Callable[[T], Awaitable[None]]) -> None:
    """Perform what is put into a queue, in order, until cancelled; what fails is logged."""
    while True:
        item = await waiting.get()
        try:
            await perform(item)
        except SageError as error:
            log.warning("action_failed", action=type(item).__name__, code=error.code, error=error.message)
        except Exception:
            log.exception("action_failed", action=type(item).__name__)
        finally:
            waiting.task_done()
