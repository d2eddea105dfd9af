"""Performs the core's actions, in their order, without holding up the core."""

import asyncio
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Publish:
    """One message, and the trace context in which it is published."""

    subject: str
    message: Message
    context: Context | None = None


class Outbox:
    """A queue of messages and records that one task works off."""

    def __init__(self, bus: Bus, archive: Archive) -> None:
        self._bus, self._archive = bus, archive
        self._subjects = bus.settings.subjects
        self._waiting: asyncio.Queue[Publish | PublishRecord] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Send what waits, within two seconds, and end."""
        try:
            await asyncio.wait_for(self._waiting.join(), 2.0)
        except TimeoutError:
            log.warning("outbox_not_emptied", waiting=self._waiting.qsize())
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def assign(self, action: Assign, inside: Context | None, time_s: float) -> None:
        """Publish an assignment, and tell observers of it once."""
        assignment = action.assignment
        self._put(Publish(self._subjects.gateway_assign(action.gateway_id), assignment, inside))
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
        self._put(Publish(self._subjects.gateway_notify(action.gateway_id), action.notice))

    def keep(self, action: PublishRecord) -> None:
        self._put(action)

    def tell(self, event: RequestEvent) -> None:
        """Publish an event for observers."""
        self._put(Publish(self._subjects.request_event(event.phase), event))

    def _put(self, item: Publish | PublishRecord) -> None:
        self._waiting.put_nowait(item)

    async def _run(self) -> None:
        while True:
            item = await self._waiting.get()
            try:
                await self._perform(item)
            except SageError as error:
                log.warning("action_failed", action=type(item).__name__, code=error.code, error=error.message)
            except Exception:
                log.exception("action_failed", action=type(item).__name__)
            finally:
                self._waiting.task_done()

    async def _perform(self, item: Publish | PublishRecord) -> None:
        if isinstance(item, PublishRecord):
            await self._archive.keep(item.record, merge=item.merge)
            return
        token = context.attach(item.context) if item.context is not None else None
        try:
            await self._bus.publish(item.subject, item.message)
        finally:
            if token is not None:
                context.detach(token)
