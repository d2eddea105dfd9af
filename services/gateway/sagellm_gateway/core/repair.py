"""Noticing what was lost (frames, engines) and getting it back."""

from collections.abc import Sequence

from sagellm_common.contracts.frames import TokenItem
from sagellm_common.contracts.reports import Progress
from sagellm_common.errors import SageError, Unavailable
from sagellm_gateway.core.actions import SendAck, SendCancel
from sagellm_gateway.core.intake import Intake
from sagellm_gateway.core.placement import Placement
from sagellm_gateway.core.request import FOREVER, Phase, Request
from sagellm_gateway.core.state import CoreState


class Repair:
    """Compares what engines report with what has arrived, and judges when an engine is lost."""

    def __init__(self, state: CoreState, placement: Placement, intake: Intake) -> None:
        self._state = state
        self._placement = placement
        self._intake = intake
        self._reported_at: dict[tuple[str, str], float] = {}  # (engine, incarnation) → last report
        self._looked_at: float | None = None

    # what engines say

    def reported(self, engine_id: str, incarnation: str, progress: Sequence[Progress], now: float) -> None:
        """Note a sign of life; an older incarnation of the same engine is lost with that."""
        if (engine_id, incarnation) not in self._reported_at:
            for other in [key for key in self._reported_at if key[0] == engine_id]:
                self.lost(*other, "it was started again", now)
        self._reported_at[engine_id, incarnation] = now
        for item in progress:
            self._compare(engine_id, item, now)

    def heard(self, source: tuple[str, str], now: float) -> None:
        """Note that an engine (id, incarnation) that is known to live has sent a frame."""
        if source in self._reported_at:
            self._reported_at[source] = now

    def _compare(self, engine_id: str, item: Progress, now: float) -> None:
        request = self._state.find(item.request_id, item.epoch)
        if request is None:
            self._unwanted(engine_id, item)
            return
        if request.engine_id != engine_id or not 0 <= item.choice < len(request.choices):
            return
        request.heard_at = now
        choice = request.choices[item.choice]
        num = len(choice.tokens)
        is_behind = choice.finish is None and (item.next_index > num or item.final)
        if is_behind and choice.behind_at == num and request.blocked_since == FOREVER:
            self._intake.ask_again(request, item.choice, now)
        choice.behind_at = num if is_behind else -1

    def _unwanted(self, engine_id: str, item: Progress) -> None:
        """The engine holds what is closed or superseded here: our cancel or ack was lost."""
        request = self._state.requests.get(item.request_id)
        if request is not None and item.epoch > request.epoch:
            return
        if item.final:
            self._state.emit(SendAck(engine_id, item.request_id, item.epoch))
        else:
            self._state.emit(SendCancel(engine_id, item.request_id, item.epoch, "no longer open at the gateway"))

    def resent(self, request_id: str, epoch: int, index: int, answer: TokenItem | SageError, now: float) -> None:
        """Take what was sent again; an engine that has forgotten the request, or does not answer, has failed it."""
        request = self._state.find(request_id, epoch)
        if request is None or request.phase is not Phase.STREAMING:
            return
        choice = request.choices[index]
        choice.resending = False
        if isinstance(answer, TokenItem):
            choice.resend_attempts, choice.behind_at = 0, -1
            request.heard_at, num = now, len(choice.tokens)
            self._intake.take(answer, now)
            if choice.finish is None and num < len(choice.tokens) < choice.ahead:
                self._intake.ask_again(request, index, now)
        elif answer.code == "not_found":
            self._placement.next_epoch(request, answer, now)
        else:
            self._resend_failed(request, index, answer, now)

    def _resend_failed(self, request: Request, index: int, error: SageError, now: float) -> None:
        choice = request.choices[index]
        if self._state.bus_up_since is not None:
            choice.resend_attempts += 1
        if choice.resend_attempts >= self._state.config.max_resends:
            self._placement.next_epoch(request, error, now)
            return
        choice.resend_at = now + self._state.config.backoff(choice.resend_attempts + 1)
        self._state.schedule(request, now)

    # what time says

    def watch(self, request: Request, now: float) -> None:
        """The timer of a streaming request has come up: repeat a resend, or ask about a silent stream."""
        if self._state.bus_up_since is None:
            self._postpone(request, now)
            return
        for index, choice in enumerate(request.choices):
            if choice.finish is None and choice.resend_at <= now:
                choice.resend_at = FOREVER
                self._intake.ask_again(request, index, now)
        if now >= request.act_at:
            self._probe(request, now)
        self._state.schedule(request, now)

    def _postpone(self, request: Request, now: float) -> None:
        later = now + self._state.config.max_backoff_s
        request.act_at = max(request.act_at, later)
        for choice in request.choices:
            if choice.resend_at != FOREVER:
                choice.resend_at = max(choice.resend_at, later)
        self._state.schedule(request, now)

    def _probe(self, request: Request, now: float) -> None:
        probe_s = self._state.config.probe_s
        silent_since = max(request.heard_at, now - self._state.bus_up_s(now))
        if now >= silent_since + probe_s and request.blocked_since == FOREVER:
            index = next(i for i, choice in enumerate(request.choices) if choice.finish is None)
            self._intake.ask_again(request, index, now)
            silent_since = now
        request.act_at = max(silent_since + probe_s, now)

    def check_engines(self, now: float) -> None:
        """Give up engines that have not reported for too long while our own connection was up.

        If this is the first look after a while, it was ourselves that stood still: what engines have sent meanwhile
        is yet to be read, so they get the time back.
        """
        stall_s = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        if stall_s > self._state.config.stall_s:
            for key in self._reported_at:
                self._reported_at[key] = min(now, self._reported_at[key] + stall_s)
            return
        patience_s = self._state.config.engine_timeout_s + self._state.config.engine_grace_s
        if self._state.bus_up_s(now) < patience_s:
            return
        for key in [key for key, last in self._reported_at.items() if now - last >= patience_s]:
            self.lost(*key, f"it has not reported for {patience_s:g} s", now)

    def assigned(self, engine_id: str, incarnation: str, now: float) -> None:
        """Watch an engine from its first assignment on, even if it never reports."""
        self._reported_at.setdefault((engine_id, incarnation), now)

    def lost(self, engine_id: str, incarnation: str | None, reason: str, now: float) -> None:
        """Move every request of a lost engine (None: of any incarnation) to its next epoch."""
        for key in [k for k in self._reported_at if k[0] == engine_id and incarnation in (None, k[1])]:
            del self._reported_at[key]
        error = Unavailable(f"engine {engine_id} was lost: {reason}")
        for request in [r for r in self._state.requests.values() if _is_prefilled_on(r, engine_id, incarnation)]:
            self._placement.abandon_prefill(request, error.message)
        moved = [r for r in self._state.requests.values() if _runs_on(r, engine_id, incarnation)]
        self._state.counts["engine_lost"] += bool(moved)
        for request in moved:
            self._placement.next_epoch(request, error, now, at_once=True)


def _is_prefilled_on(request: Request, engine_id: str, incarnation: str | None) -> bool:
    prefill = None if request.assignment is None or request.has_begun else request.assignment.prefill
    return prefill is not None and prefill.engine_id == engine_id and incarnation in (None, prefill.incarnation)


def _runs_on(request: Request, engine_id: str, incarnation: str | None) -> bool:
    assignment = request.assignment
    return (
        assignment is not None
        and assignment.engine_id == engine_id
        and (incarnation is None or assignment.incarnation == incarnation)
    )
