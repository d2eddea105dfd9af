"""Where decision records are kept: in memory for the newest, in a bounded stream so that they survive a failover."""

from collections import OrderedDict

import nats.errors
import nats.js.errors
import structlog
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from sagellm_common.bus import Bus
from sagellm_common.codec import decode
from sagellm_common.contracts.decisions import Decision, DecisionRecord
from sagellm_common.errors import NotFound, SageError, Unavailable

log = structlog.get_logger(__name__)
MAX_AGE_S = 3600.0
MAX_BYTES = 64 * 1024 * 1024
KEEP_IN_MEMORY = 10_000


class Archive:
    """The decision records of a deployment."""

    def __init__(self, bus: Bus, js: JetStreamContext) -> None:
        self._bus, self._js = bus, js
        self._subjects = bus.settings.subjects
        self._stream = self._subjects.stream("decisions")
        self._recent: OrderedDict[str, DecisionRecord] = OrderedDict()

    @classmethod
    async def open(cls, bus: Bus) -> "Archive":
        """Open the stream, creating it if it is not there; raises Unavailable if it cannot be had."""
        archive = cls(bus, await bus.jetstream())
        config = StreamConfig(
            name=archive._stream,
            subjects=[archive._subjects.decision("*")],
            max_msgs_per_subject=1,
            max_age=MAX_AGE_S,
            max_bytes=MAX_BYTES,
            discard=DiscardPolicy.OLD,
            storage=StorageType.FILE,
            allow_direct=True,
        )
        try:
            await archive._js.add_stream(config)
        except nats.js.errors.BadRequestError:
            log.info("stream_exists_with_other_settings", stream=archive._stream)
        except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"the stream {archive._stream} cannot be opened: {error}") from error
        return archive

    async def keep(self, record: DecisionRecord, *, merge: bool) -> None:
        """Keep a record in the place of the former one of its request.

        `merge` adds the decisions that an earlier leader has kept. The stream does not acknowledge: a record lost on
        a broken connection is still in memory here.
        """
        if merge:
            record = await self._with_earlier(record)
        self._remember(record)
        try:
            await self._bus.publish(self._subjects.decision(record.request_id), record)
        except SageError as error:
            log.warning("decision_not_kept", request_id=record.request_id, error=error.message)

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
        except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"the stream {self._stream} cannot be read") from error
        return decode(DecisionRecord, message.data or b"")


def _merged(former: DecisionRecord | None, record: DecisionRecord) -> DecisionRecord:
    """Return `record` with the decisions of `former` that it lacks in front."""
    if former is None:
        return record
    own = {_identity(decision) for decision in record.decisions}
    earlier = [decision for decision in former.decisions if _identity(decision) not in own]
    return record.model_copy(update={"decisions": [*earlier, *record.decisions]})


def _identity(decision: Decision) -> tuple[object, ...]:
    return decision.epoch, decision.leader_epoch, decision.chosen, decision.number
