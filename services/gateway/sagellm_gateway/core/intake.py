"""Taking tokens: the hot path. Whatever is old, known already or out of order never reaches a client."""

from sagellm_common.contracts.dispatch import ResendRequest
from sagellm_common.contracts.frames import TokenItem
from sagellm_common.errors import Internal, SageError, Unavailable, error_from_dict
from sagellm_gateway.core.actions import FirstToken, SendResend
from sagellm_gateway.core.placement import Placement
from sagellm_gateway.core.request import FOREVER, Choice, Phase, Request
from sagellm_gateway.core.state import CoreState


class Intake:
    """Checks each item against what its request has, and gives what is new to the request's sink."""

    def __init__(self, state: CoreState, placement: Placement) -> None:
        self._state = state
        self._placement = placement

    def take(self, item: TokenItem, now: float) -> None:
        """Take an item from a frame or a resend; costs about a microsecond when it is the expected next one."""
        request = self._state.requests.get(item.request_id)
        if request is None or item.epoch != request.epoch or request.phase < Phase.DISPATCHED:
            self._state.counts["unknown" if request is None else "old_epoch"] += 1
            return
        if not 0 <= item.choice < len(request.choices):
            self._state.counts["unknown"] += 1
            return
        choice = request.choices[item.choice]
        skip = len(choice.tokens) - item.first_index
        if (skip or choice.finish is not None) and not self._is_news(request, choice, item, skip, now):
            return
        if request.sink.is_full and item.token_ids:
            self._block(request, now)
            return
        request.heard_at = now
        request.has_begun = request.has_begun or bool(item.token_ids)
        if request.phase is not Phase.STREAMING:
            self._placement.streaming(request, now)
        if item.error is not None or item.finish in ("error", "cancelled"):
            self._failed(request, item, now)
            return
        self._append(request, choice, item, skip, now)

    def _append(self, request: Request, choice: Choice, item: TokenItem, skip: int, now: float) -> None:
        if choice.tokens:
            request.gaps_s.append(now - choice.last_token_at)
        elif item.token_ids:
            self._first(request, item, now)
        choice.last_token_at = now
        choice.tokens += item.token_ids[skip:] if skip else item.token_ids
        if item.finish is not None:
            choice.finish = item.finish
        request.sink.put(item, skip)
        if item.finish is not None and request.is_complete:
            self._state.finish(request, now)

    def _first(self, request: Request, item: TokenItem, now: float) -> None:
        request.cached_tokens = max(request.cached_tokens, item.cached_tokens)
        request.transfer_ms = item.transfer_ms
        if request.first_token_at is None:
            request.first_token_at = now
            self._state.emit(FirstToken(request, now - request.accepted_at))

    def _is_news(self, request: Request, choice: Choice, item: TokenItem, skip: int, now: float) -> bool:
        if choice.finish is not None:
            self._state.counts["duplicate"] += 1
            return False
        if skip < 0:
            self._state.counts["gap"] += 1
            choice.ahead = max(choice.ahead, item.first_index + len(item.token_ids) + (item.finish is not None))
            if request.blocked_since == FOREVER:
                self.ask_again(request, item.choice, now)
            return False
        self._state.counts["duplicate"] += min(skip, len(item.token_ids))
        return len(item.token_ids) > skip or (len(item.token_ids) == skip and item.finish is not None)

    def _failed(self, request: Request, item: TokenItem, now: float) -> None:
        """End or move a request whose engine gave it up; only what another engine may do better is moved."""
        if item.error is not None:
            error: SageError = error_from_dict(item.error)
        elif item.finish == "cancelled":
            error = Unavailable(f"engine {request.engine_id} gave the request up")
        else:
            error = Internal(f"engine {request.engine_id} failed the request without saying why")
        if error.code in ("unavailable", "kv_transfer_failed") or (item.finish == "cancelled" and item.error is None):
            self._placement.next_epoch(request, error, now)
        else:
            self._state.give_up(request, error, now)

    # a client that does not keep up

    def _block(self, request: Request, now: float) -> None:
        self._state.counts["blocked"] += 1
        if request.blocked_since == FOREVER:
            request.blocked_since = now
            self._state.schedule(request, now)

    def drained(self, request_id: str, now: float) -> None:
        """Ask for what was not taken while the client was behind; the engine has kept it."""
        request = self._state.requests.get(request_id)
        if request is None or request.blocked_since == FOREVER:
            return
        request.blocked_since = FOREVER
        self._state.schedule(request, now)
        for index, choice in enumerate(request.choices):
            if choice.finish is None:
                self.ask_again(request, index, now)

    # repair

    def ask_again(self, request: Request, index: int, now: float) -> None:
        """Ask the engine for a choice's tokens from the first missing one on, unless that is under way."""
        choice = request.choices[index]
        if choice.resending or choice.resend_at != FOREVER or request.assignment is None:
            return
        if request.phase is not Phase.STREAMING:
            self._placement.streaming(request, now)
        choice.resending = True
        self._state.counts["resend"] += 1
        resend = ResendRequest(
            request_id=request.request_id, epoch=request.epoch, choice=index, from_index=len(choice.tokens)
        )
        self._state.emit(SendResend(request.assignment.engine_id, resend))
