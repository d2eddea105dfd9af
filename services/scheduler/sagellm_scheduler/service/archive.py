"""Where decision records are kept: in memory for the newest, in a bounded stream so that they survive a failover."""

import asyncio
from collections import OrderedDict
from datetime import datetime

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from sagellm_common.bus import Bus
from sagellm_common.bus.restoring import after_reconnect, start_restoring
from sagellm_common.codec import decode
from sagellm_common.contracts.decisions import Decision, DecisionRecord
from sagellm_common.errors import NotFound, SageError, Unavailable
from sagellm_scheduler.core.records import with_errors

log = structlog.get_logger(__name__)
MAX_AGE_S = 3600.0
MAX_BYTES = 64 * 1024 * 1024
KEEP_IN_MEMORY = 10_000
NO_RESPONDERS = "503"


class Archive:
    """The decision records of a deployment.

    When the stream is found missing it is made anew and gets what is still in memory.
    """

    def __init__(self, bus: Bus, js: JetStreamContext) -> None:
        self._bus, self._js = bus, js
        self._subjects = bus.settings.subjects
        self._stream = self._subjects.stream("decisions")
        self._recent: OrderedDict[str, DecisionRecord] = OrderedDict()
        self._created: datetime | None = None
        self._acks = bus.new_inbox()
        self._restoring = asyncio.Lock()

    @classmethod
    async def open(cls, bus: Bus) -> "Archive":
        """Open the stream, creating it if it is not there; raises Unavailable if it cannot be had."""
        archive = cls(bus, await bus.jetstream())
        archive._created = await archive._open_stream()
        await bus.client.subscribe(archive._acks, cb=archive._acknowledged)
        after_reconnect(bus, archive._stream, archive._restore)
        return archive

    async def _open_stream(self) -> datetime | None:
        """Open or create the stream; returns when it was created."""
        config = StreamConfig(
            name=self._stream,
            subjects=[self._subjects.decision("*")],
            max_msgs_per_subject=1,
            max_age=MAX_AGE_S,
            max_bytes=MAX_BYTES,
            discard=DiscardPolicy.OLD,
            storage=StorageType.FILE,
            allow_direct=True,
        )
        try:
            return (await self._js.add_stream(config)).created
        except nats.js.errors.BadRequestError:
            log.info("stream_exists_with_other_settings", stream=self._stream)
            return self._created
        except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"the stream {self._stream} cannot be opened: {error}") from error

    async def _acknowledged(self, msg: Msg) -> None:
        """The stream stores without being waited for; only its absence asks for something."""
        if (msg.headers or {}).get("Status") == NO_RESPONDERS and not self._restoring.locked():
            start_restoring(self._bus, self._stream, self._restore)

    async def _restore(self) -> None:
        """Make a missing stream anew, with what is in memory; raises Unavailable."""
        async with self._restoring:
            created = await self._open_stream()
            if created == self._created:
                return
            self._created = created
            log.warning("stream_made_anew", stream=self._stream, records=len(self._recent))
            for record in list(self._recent.values()):
                await self._publish(record)

    async def keep(self, record: DecisionRecord, *, merge: bool) -> None:
        """Keep a record in the place of the former one of its request.

        `merge` adds the decisions that an earlier leader has kept. The stream's acknowledgement is not waited for: a
        record lost on a broken connection is still in memory here.
        """
        if merge:
            record = await self._with_earlier(record)
        self._remember(record)
        try:
            await self._publish(record)
        except SageError as error:
            log.warning("decision_not_kept", request_id=record.request_id, error=error.message)

    async def _publish(self, record: DecisionRecord) -> None:
        await self._bus.publish(self._subjects.decision(record.request_id), record, reply=self._acks)

    async def _with_earlier(self, record: DecisionRecord) -> DecisionRecord:
        former = self._recent.get(record.request_id)
        try:
            return _merged(former or await self._stored(record.request_id), record)
        except SageError as error:
            log.warning("earlier_decisions_unread", request_id=record.request_id, error=error.message)
            return record

    def _remember(self, record: DecisionRecord) -> None:
        self._recent[record.request_id] = record
        self._recent.move_to_end(record.request_id)
        if len(self._recent) > KEEP_IN_MEMORY:
            self._recent.popitem(last=False)

    def forget(self) -> None:
        """Forget what is in memory, as leadership ends: another scheduler writes from now on."""
        self._recent.clear()

    async def find(self, request_id: str) -> DecisionRecord:
        """Return the record of a request; raises NotFound, or Unavailable if the stream cannot be read."""
        record = self._recent.get(request_id) or await self._stored(request_id)
        if record is None:
            raise NotFound(
                f"no decision is kept about the request {request_id!r}: records are kept for an hour",
                param="request_id",
            )
        return record

    async def _stored(self, request_id: str) -> DecisionRecord | None:
        subject = self._subjects.decision(request_id)
        try:
            message = await self._js.get_last_msg(self._stream, subject, direct=True)
        except nats.js.errors.NotFoundError:
            return None
        except (nats.errors.NoRespondersError, nats.js.errors.ServiceUnavailableError):
            await self._restore()
            return None
        except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"the stream {self._stream} cannot be read") from error
        return decode(DecisionRecord, message.data or b"")


def _merged(former: DecisionRecord | None, record: DecisionRecord) -> DecisionRecord:
    """Return `record` with the decisions of `former` that it lacks in front."""
    if former is None:
        return record
    own = {_identity(decision) for decision in record.decisions}
    earlier = [decision for decision in former.decisions if _identity(decision) not in own]
    return with_errors(record.model_copy(update={"decisions": [*earlier, *record.decisions]}))


def _identity(decision: Decision) -> tuple[object, ...]:
    return decision.epoch, decision.leader_epoch, decision.chosen, decision.number
