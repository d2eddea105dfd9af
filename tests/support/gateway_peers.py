"""The other sides of a gateway, played by a test: registry, leading scheduler, engines, a caller on NATS."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack
from nats.aio.msg import Msg

from sagellm_common.bus import Bus, Received
from sagellm_common.codec import JSON, content_type_of, decode
from sagellm_common.contracts.dispatch import Ack, Dispatch, DispatchReply, ResendRequest
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.events import END_PHASES, RequestEvent
from sagellm_common.contracts.frames import TokenFrame, TokenItem
from sagellm_common.contracts.generate import CancelReply, CancelRequest, GenerateReply
from sagellm_common.contracts.policy import Leader
from sagellm_common.contracts.registry import ModelCard, ModelInfo, ModelQuery, ModelReply
from sagellm_common.contracts.reports import EngineReport, Gauges, Progress
from sagellm_common.contracts.scheduling import Assignment, GatewayHeartbeat, Notice, Submit, SubmitReply
from sagellm_common.errors import NotFound, SageError
from support.tokenizers import byte_level, write_model_folder
from support.wait import eventually

MODEL = "test/model-1.0"
GATEWAY_ID = "gw1"


class PlayedEngine:
    """An engine that does only what a test tells it: it notes dispatches and publishes the frames it is given.

    `kept` has what it would send again, per (request, epoch, choice); `refuse` is raised at the next dispatches;
    `reports` False makes it fall silent.
    """

    def __init__(self, bus: Bus, engine_id: str, run: int, gateway_id: str = GATEWAY_ID) -> None:
        self.bus, self.engine_id, self.gateway_id = bus, engine_id, gateway_id
        self.incarnation = f"{engine_id}-{run}"
        self.subjects = bus.settings.subjects
        self.dispatches: list[Dispatch] = []
        self.headers: list[Mapping[str, str]] = []
        self.cancels: list[CancelRequest] = []
        self.resends: list[ResendRequest] = []
        self.acks: list[tuple[str, int]] = []
        self.kept: dict[tuple[str, int, int], TokenItem] = {}
        self.refuse: SageError | None = None
        self.progress: list[Progress] = []
        self.reports = True
        self._numbers = itertools.count(1)

    async def open(self, max_model_len: int) -> None:
        """Serve the engine's subjects and register."""
        subjects, engine_id = self.subjects, self.engine_id
        await self.bus.serve(subjects.engine_dispatch(engine_id), Dispatch, self._dispatched)
        await self.bus.serve(subjects.engine_cancel(engine_id), CancelRequest, self._cancelled)
        await self.bus.serve(subjects.engine_resend(engine_id), ResendRequest, self._resend)
        await self.bus.subscribe(subjects.engine_ack(engine_id), Ack, lambda ack, _: self.acks.extend(ack.requests))
        await self.bus.flush()
        self._bucket = await self.bus.bucket(subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
        await self.register(max_model_len)

    async def register(self, max_model_len: int = 256) -> None:
        """Write the registration."""
        registration = EngineRegistration(
            engine_id=self.engine_id,
            incarnation=self.incarnation,
            models=(MODEL,),
            backend="cpu",
            kind="test",
            max_model_len=max_model_len,
            page_size=16,
            num_pages=100,
            max_num_seqs=8,
            max_batch_tokens=256,
            started_at=1700000000.0,
        )
        await self._bucket.put(self.engine_id, registration)

    async def report(self) -> None:
        """Publish one heartbeat with `progress`."""
        gauges = Gauges(100, 100, 0, 0, 0, 0, 0, 0.0)
        report = EngineReport(self.engine_id, self.incarnation, next(self._numbers), gauges, [1, 1], 0)
        report.progress = {self.gateway_id: self.progress}
        await self.bus.publish(self.subjects.engine_metrics(self.engine_id), report)

    async def _dispatched(self, dispatch: Dispatch, received: Received) -> DispatchReply:
        self.dispatches.append(dispatch)
        self.headers.append(received.headers)
        if self.refuse is not None:
            raise self.refuse
        return DispatchReply()

    async def _cancelled(self, cancel: CancelRequest, received: Received) -> CancelReply:
        self.cancels.append(cancel)
        return CancelReply(found=True)

    async def _resend(self, resend: ResendRequest, received: Received) -> TokenItem:
        self.resends.append(resend)
        kept = self.kept.get((resend.request_id, resend.epoch, resend.choice))
        if kept is None:
            raise NotFound("no such request")
        kept.token_ids, kept.first_index = kept.token_ids[resend.from_index - kept.first_index :], resend.from_index
        return kept

    async def dispatched(self, count: int = 1) -> Dispatch:
        """Return the last dispatch once there have been `count`."""
        await eventually(lambda: len(self.dispatches) >= count, what=f"dispatch {count} at {self.engine_id}")
        return self.dispatches[count - 1]

    async def send(self, dispatch: Dispatch, first: int, tokens: list[int], **changes: Any) -> None:
        """Publish a frame with tokens of a request."""
        item = TokenItem(dispatch.request_id, dispatch.epoch, changes.pop("choice", 0), first, tokens, **changes)
        frame = TokenFrame(self.engine_id, self.incarnation, next(self._numbers), [item])
        await self.bus.publish(self.subjects.tokens(self.gateway_id), frame)


class GatewayPeers:
    """Everything around one gateway. `assign` False keeps submissions queued; `answer` replaces the reply to them.

    A gateway may serve several tests: each has schedulers and engine incarnations of its own, under newer leader
    epochs, and `close` ends what is still open.
    """

    runs = itertools.count(1)

    def __init__(self, bus: Bus, folder: Path) -> None:
        self.bus = bus
        self.subjects = bus.settings.subjects
        self.tokenizer = byte_level()
        self.folder = write_model_folder(folder / "model", self.tokenizer)
        self.run = next(self.runs)
        self.engines = {name: PlayedEngine(bus, name, self.run) for name in ("e1", "e2")}
        self.submits: list[Submit] = []
        self.events: list[RequestEvent] = []
        self.heartbeats: list[GatewayHeartbeat] = []
        self.assign = True
        self.answer: Callable[[Submit], SubmitReply] | None = None
        self.leader_epoch = (self.run, 1)
        self._numbers = itertools.count(1)

    async def open(self, *, max_model_len: int = 256) -> None:
        """Play registry, scheduler `s1` and the engines."""
        subjects = self.subjects
        await self.bus.serve(subjects.registry("resolve"), ModelQuery, self._resolve)
        await self.bus.subscribe(subjects.request_event("*"), RequestEvent, lambda e, _: self.events.append(e))
        heartbeat = subjects.gateway_heartbeat("*")
        await self.bus.subscribe(heartbeat, GatewayHeartbeat, lambda h, _: self.heartbeats.append(h))
        self._leader = await self.bus.bucket(subjects.bucket("leader"), ttl_s=60)
        await self.lead("s1")
        for engine in self.engines.values():
            await engine.open(max_model_len)
        self._reporting = asyncio.create_task(self._report())

    async def close(self) -> None:
        """Cancel what is open, wait for its end, and stop."""
        self.answer, self.assign = None, True
        try:
            for request_id in self._open():
                await self.bus.client.publish(self.subjects.cancel(request_id), b"")
            await eventually(lambda: not self._open(), what="the end of all requests")
        finally:
            self._reporting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reporting

    def _open(self) -> set[str]:
        ended = {event.request_id for event in self.events if event.phase in END_PHASES}
        return {submit.request_id for submit in self.submits} - ended

    async def lead(self, scheduler_id: str) -> None:
        """Let a scheduler lead."""
        scheduler_id = f"{scheduler_id}-{self.run}"
        await self.bus.serve(self.subjects.submit(scheduler_id), Submit, self._submitted)
        await self.bus.flush()
        await self._leader.put("scheduler", Leader(scheduler_id=scheduler_id, started_at=1.0))

    async def no_leader(self) -> None:
        """Take the lease away."""
        await self._leader.delete("scheduler")

    async def _report(self) -> None:
        while True:
            for engine in self.engines.values():
                if engine.reports:
                    await engine.report()
            await asyncio.sleep(0.2)

    async def _resolve(self, query: ModelQuery, received: Received) -> ModelReply:
        if query.model_id != MODEL:
            raise NotFound("no such model")
        size = self.tokenizer.get_vocab_size()
        card = ModelCard(model_id=MODEL, path=str(self.folder), architecture="test", max_model_len=256, vocab_size=size)
        return ModelReply(model=ModelInfo(model_id=MODEL, path=str(self.folder)), card=card)

    async def _submitted(self, submit: Submit, received: Received) -> SubmitReply:
        self.submits.append(submit)
        if self.answer is not None:
            return self.answer(submit)
        if self.assign:
            await self.assigned(submit)
        return SubmitReply(status="queued")

    async def submitted(self, count: int = 1) -> Submit:
        """Return the submission number `count`."""
        await eventually(lambda: len(self.submits) >= count, what=f"submission {count}")
        return self.submits[count - 1]

    async def assigned(self, submit: Submit, engine_id: str | None = None) -> None:
        """Assign an epoch to an engine that has not failed it."""
        name = engine_id or next(e for e in self.engines if e not in submit.failed_engines)
        assignment = Assignment(
            request_id=submit.request_id,
            epoch=submit.epoch,
            engine_id=name,
            incarnation=self.engines[name].incarnation,
            leader_epoch=self.leader_epoch,
            number=next(self._numbers),
            dispatch_timeout_ms=500,
        )
        await self.bus.publish(self.subjects.gateway_assign(submit.gateway_id), assignment)

    async def notify(self, notice: Notice, gateway_id: str = GATEWAY_ID) -> None:
        """Send the gateway a notice."""
        await self.bus.publish(self.subjects.gateway_notify(gateway_id), notice)

    def tokens(self, text: str) -> list[int]:
        """Tokens of a text, as the model's tokenizer has them."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    async def event(self, phase: str) -> RequestEvent:
        """Return the first event of a phase, once it is there."""
        await eventually(lambda: any(e.phase == phase for e in self.events), what=f"the event {phase}")
        return next(e for e in self.events if e.phase == phase)


class Caller:
    """A client with nothing but a NATS connection: it asks, and keeps what arrives in its inbox."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.inbox = bus.new_inbox()
        self.messages: list[Msg] = []

    async def ask(self, body: bytes, headers: dict[str, str] | None = None) -> "Caller":
        """Publish a request with our inbox as its reply."""
        self._subscription = await self.bus.client.subscribe(self.inbox, cb=self._receive)
        await self.bus.client.publish(self.bus.settings.subjects.generate, body, reply=self.inbox, headers=headers)
        return self

    async def ask_for(self, **fields: Any) -> "Caller":
        """Publish a msgpack request; 8 tokens unless said otherwise."""
        body = {"model": MODEL, "prompt": "the quick brown", "sampling": {"max_tokens": 8, "seed": 1}, **fields}
        return await self.ask(msgpack.packb(body))

    async def _receive(self, msg: Msg) -> None:
        self.messages.append(msg)

    async def vanish(self) -> None:
        """Stop listening, as a process that ends."""
        await self._subscription.unsubscribe()

    @property
    def replies(self) -> list[GenerateReply]:
        return [decode(GenerateReply, msg.data, content_type_of(msg.headers)) for msg in self.messages if msg.data]

    @property
    def text(self) -> str:
        return "".join(reply.text for reply in self.replies)

    async def has_text(self, text: str) -> None:
        """Return once the text so far is `text`."""
        await eventually(lambda: self.text == text, what=f"the text {text!r}, not {self.text!r}")

    async def final(self, timeout_s: float = 10.0) -> GenerateReply:
        """Return the last reply once it is there; the replies before it must be numbered without a gap."""
        await eventually(lambda: any(r.final for r in self.replies), timeout_s, "the final reply")
        replies = self.replies
        assert [reply.seq for reply in replies] == list(range(len(replies)))
        assert [reply.final for reply in replies] == [False] * (len(replies) - 1) + [True]
        return replies[-1]


def as_json(**fields: Any) -> bytes:
    """A request as a person types it."""
    return json.dumps({"model": MODEL, "prompt": "the quick brown", **fields}).encode()


JSON_HEADER = {"Content-Type": JSON}
