"""The other side of an engine: a gateway and a scheduler that speak only the contract, played by a test."""

import asyncio
import contextlib
import itertools
import uuid
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from sagellm_common.bus import Bus, Received
from sagellm_common.contracts.dispatch import Ack, ControlReply, ControlRequest, Dispatch, DispatchReply, ResendRequest
from sagellm_common.contracts.engines import ENGINES_TTL_S, EngineRegistration
from sagellm_common.contracts.frames import TokenFrame, TokenItem
from sagellm_common.contracts.generate import CancelReply, CancelRequest
from sagellm_common.contracts.reports import EngineReport, Gauges, Progress
from sagellm_common.contracts.sampling import SamplingOptions
from sagellm_common.contracts.scheduling import GatewayHeartbeat
from sagellm_common.subjects import encode_token
from support.wait import eventually, eventually_async

HEARTBEAT_S = 0.2


class EnginePeer:
    """Plays the gateway `gateway_id` towards one engine; everything that the engine publishes is kept.

    `deaf` True makes it miss frames, as a lossy bus would; `heartbeats` False stops its heartbeat.
    """

    def __init__(self, bus: Bus, engine: EngineRegistration, gateway_id: str = "gw1") -> None:
        self.bus, self.engine, self.gateway_id = bus, engine, gateway_id
        self.subjects = bus.settings.subjects
        self.frames: list[TokenFrame] = []
        self.reports: list[EngineReport] = []
        self.tokens: dict[tuple[str, int, int], list[int]] = defaultdict(list)
        self.logprobs: dict[tuple[str, int, int], list[Any]] = defaultdict(list)
        self.gaps: list[TokenItem] = []
        self.ends: dict[tuple[str, int, int], TokenItem] = {}
        self.deaf = False
        self.heartbeats = True
        self._numbers = itertools.count(1)
        self._dispatched: set[str] = set()
        self._bases: dict[tuple[str, int, int], int] = {}

    async def open(self) -> None:
        """Listen to frames and reports, and begin to send heartbeats."""
        await self.bus.subscribe(self.subjects.tokens(self.gateway_id), TokenFrame, self._frame)
        await self.bus.subscribe(self.subjects.engine_metrics(self.engine.engine_id), EngineReport, self._report)
        await self.bus.flush()
        self._beating = asyncio.create_task(self._beat())

    async def close(self) -> None:
        """Stop the heartbeat."""
        self._beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._beating

    async def leave_nothing(self) -> None:
        """Cancel everything that was dispatched, so that the engine holds nothing of it."""
        for request_id in self._dispatched:
            await self.cancel(request_id)

    async def _beat(self) -> None:
        heartbeat = GatewayHeartbeat(gateway_id=self.gateway_id, incarnation="i1", open_requests=0)
        while True:
            if self.heartbeats and self.bus.is_connected:
                await self.bus.publish(self.subjects.gateway_heartbeat(self.gateway_id), heartbeat)
            await asyncio.sleep(HEARTBEAT_S)

    def _frame(self, frame: TokenFrame, received: Received) -> None:
        if self.deaf:
            return
        self.frames.append(frame)
        for item in frame.items:
            self.take(item)

    def take(self, item: TokenItem) -> None:
        """Take an item as a gateway does: new tokens are kept, known ones cut, and a gap is noted."""
        key = (item.request_id, item.epoch, item.choice)
        have = self.tokens[key]
        skip = self.base(key) + len(have) - item.first_index
        if skip < 0:
            self.gaps.append(item)
            return
        have += item.token_ids[skip:]
        self.logprobs[key] += (item.logprobs or [])[skip:]
        if item.finish is not None:
            self.ends[key] = item

    def base(self, key: tuple[str, int, int]) -> int:
        """The index at which a choice began, by its dispatch."""
        return self._bases.get(key, 0)

    def _report(self, report: EngineReport, received: Received) -> None:
        self.reports.append(report)

    # what a gateway asks

    def make(self, **changes: Any) -> Dispatch:
        """A dispatch of a new request to this engine; sampling options go by name, as do the message's own fields."""
        own = {name: changes.pop(name) for name in list(changes) if name in Dispatch.model_fields}
        sampling = SamplingOptions(**{"max_tokens": 8, "seed": 7, "temperature": 0.0, **changes})
        fields: dict[str, Any] = {
            "request_id": uuid.uuid4().hex,
            "epoch": 0,
            "gateway_id": self.gateway_id,
            "model": self.engine.models[0],
            "incarnation": self.engine.incarnation,
            "leader_epoch": (1, 1),
            "assignment_number": next(self._numbers),
            "prompt_token_ids": [1, 2, 3],
            "sampling": sampling,
            **own,
        }
        dispatch = Dispatch(**fields)
        for choice, delivered in enumerate(dispatch.delivered):
            self._bases[dispatch.request_id, dispatch.epoch, choice] = len(delivered)
        return dispatch

    async def dispatch(self, dispatch: Dispatch) -> DispatchReply:
        """Hand a request over; raises what the engine refuses it with."""
        self._dispatched.add(dispatch.request_id)
        subject = self.subjects.engine_dispatch(self.engine.engine_id)
        return await self.bus.request(subject, dispatch, DispatchReply)

    async def run(self, **changes: Any) -> tuple[str, int, int]:
        """Dispatch a request and return the key of its first choice once that has ended."""
        dispatch = self.make(**changes)
        await self.dispatch(dispatch)
        return await self.ended(dispatch)

    async def ended(self, dispatch: Dispatch, choice: int = 0, timeout_s: float = 20.0) -> tuple[str, int, int]:
        """Return the key of a choice once it has ended."""
        key = (dispatch.request_id, dispatch.epoch, choice)
        await eventually(lambda: key in self.ends, timeout_s, f"the end of {key}")
        return key

    async def cancel(self, request_id: str, epoch: int | None = None) -> bool:
        """Cancel a request; return whether it was open."""
        request = CancelRequest(request_id=request_id, epoch=epoch)
        subject = self.subjects.engine_cancel(self.engine.engine_id)
        return (await self.bus.request(subject, request, CancelReply)).found

    async def resend(self, dispatch: Dispatch, from_index: int, choice: int = 0) -> TokenItem:
        """Ask for the tokens of a request from an index on."""
        request = ResendRequest(
            request_id=dispatch.request_id, epoch=dispatch.epoch, choice=choice, from_index=from_index
        )
        return await self.bus.request(self.subjects.engine_resend(self.engine.engine_id), request, TokenItem)

    async def repaired(self, dispatch: Dispatch, timeout_s: float = 20.0) -> tuple[str, int, int]:
        """Ask for a resend at every gap until the first choice has ended; return its key."""
        key = (dispatch.request_id, dispatch.epoch, 0)
        while key not in self.ends:
            self.gaps.clear()
            self.take(await self.resend(dispatch, self.base(key) + len(self.tokens[key])))
            await eventually(lambda: bool(self.gaps) or key in self.ends, timeout_s, f"a gap or the end of {key}")
        return key

    async def ack(self, *dispatches: Dispatch) -> None:
        """Acknowledge requests."""
        ack = Ack(gateway_id=self.gateway_id, requests=[(d.request_id, d.epoch) for d in dispatches])
        await self.bus.publish(self.subjects.engine_ack(self.engine.engine_id), ack)

    async def control(self, action: str) -> ControlReply:
        """Give an operator's order."""
        request = ControlRequest.model_validate({"action": action})
        return await self.bus.request(self.subjects.engine_control(self.engine.engine_id), request, ControlReply)

    async def held(self) -> int:
        """How many requests the engine holds, ended and unacknowledged ones included."""
        return int((await self.control("status")).detail["requests_held"])

    async def registered_as(self, state: str) -> None:
        """Return once the engine's registration shows a state."""
        bucket = await self.bus.bucket(self.subjects.bucket("engines"), ttl_s=ENGINES_TTL_S)
        key = encode_token(self.engine.engine_id)

        async def shows() -> bool:
            found = await bucket.get(EngineRegistration, key)
            return found is not None and found[0].state == state

        await eventually_async(shows, what=f"registration as {state}")

    # what its reports say

    def progress(self) -> dict[tuple[str, int, int], Progress]:
        """The progress of this gateway's requests in the last heartbeat that had any to tell."""
        found = next((r for r in reversed(self.reports) if r.progress), None)
        items = found.progress.get(self.gateway_id, []) if found is not None else []
        return {(p.request_id, p.epoch, p.choice): p for p in items}

    async def reported(self, condition: Callable[[EngineReport], bool]) -> EngineReport:
        """Return the first report from now on that fulfils a condition."""
        start = len(self.reports)
        await eventually(lambda: any(map(condition, self.reports[start:])), what="such a report")
        return next(filter(condition, self.reports[start:]))

    async def idle(self) -> EngineReport:
        """Return the next report that shows an engine which has nothing to do and holds no page."""
        return await self.reported(lambda report: _is_idle(report.gauges))


def _is_idle(gauges: Gauges) -> bool:
    held = gauges.pages_total - gauges.pages_free - gauges.pages_cached
    return gauges.running == gauges.waiting == held == 0
