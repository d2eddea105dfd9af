"""Hand-offs between simulated engines: the real lease cores, over the simulated bus, with reads that take time."""

from collections.abc import Callable
from typing import Protocol

from sagellm_engine.transfer.giving import GivingAction, GivingSide, Release, Send
from sagellm_engine.transfer.lease import LeaseId, Message, Offer, Ready
from sagellm_engine.transfer.taking import Adopt, FreePages, Read, Recompute, RecreateAgent, TakingAction, TakingSide
from sagellm_simulation.kernel import Kernel
from sagellm_simulation.specs import PAGE_SIZE, EngineSpec

TICK_S = 0.1
READ_LATENCY_S = 1e-4
RECREATION_S = 0.5

Key = tuple[str, int]


class Host(Protocol):
    """The engine whose hand-offs these are."""

    engine_id: str
    spec: EngineSpec

    def release_held(self, key: Key) -> None:
        """Nothing is promised of this request's pages any more."""

    def reserve(self, num_pages: int) -> bool:
        """Set pages and a place apart; False if there is no room."""

    def known_pages(self, key: Key) -> int:
        """How many pages of an expected prompt need not be read, for they are known."""

    def free_reserved(self, num_pages: int) -> None:
        """Give them back."""

    def adopt(self, key: Key, num_pages: int, transfer_s: float) -> None:
        """The prompt is there: go on."""

    def recompute(self, key: Key) -> None:
        """Nothing came of it: prefill here."""


class SimHandoffs:
    """Both sides of one life of an engine. `send` carries a message to another engine; `is_there` tells whether the
    life of an engine that a lease is named after goes on."""

    def __init__(
        self,
        kernel: Kernel,
        host: Host,
        incarnation: str,
        send: Callable[[str, Message], None],
        is_there: Callable[[str], bool],
    ) -> None:
        self._kernel, self._host, self._send, self._is_there = kernel, host, send, is_there
        self._giving, self._taking = GivingSide(incarnation), TakingSide()
        self._leases: dict[Key, LeaseId] = {}
        self._complete_at: dict[Key, float] = {}
        self._link_free_at = 0.0
        self._ticks = False
        self.is_over = False

    @property
    def num_expected(self) -> int:
        """Requests that wait for what another engine prefills."""
        return self._taking.num_open

    @property
    def num_open(self) -> int:
        """Leases and expectations on either side, and reads that have not ended."""
        return self._taking.num_open + len(self._giving) + self._taking.quarantined_pages

    # giving

    def begins(self, key: Key, num_tokens: int, num_ready: int, to: str) -> None:
        """A prompt that is prefilled for engine `to` has got its pages."""
        pages = tuple(range(-(-num_tokens // PAGE_SIZE)))
        name, actions = self._giving.offer(*key, pages, to, self._kernel.now, num_ready=num_ready // PAGE_SIZE)
        self._leases[key] = name
        self._give(actions)

    def progressed(self, key: Key, num_tokens: int, *, is_complete: bool) -> None:
        """So many tokens of a prompt have been computed."""
        name = self._leases.get(key)
        if name is not None:
            num_ready = -(-num_tokens // PAGE_SIZE) if is_complete else num_tokens // PAGE_SIZE
            first = "first token" if is_complete else None
            self._give(self._giving.progressed(name, num_ready, first, self._kernel.now))

    # taking

    def expect(self, key: Key) -> None:
        """A request has been dispatched here that another engine prefills."""
        self._take(self._taking.expect(key, self._kernel.now))

    def abandoned(self, key: Key) -> None:
        """A gateway says that nothing will come."""
        self._take(self._taking.abandoned(key, "the prefill engine is gone", self._kernel.now))

    # both

    def cancel(self, request_id: str, epoch: int | None) -> None:
        """Give up a request (None: all its epochs)."""
        now = self._kernel.now
        for key in [key for key in self._leases if key[0] == request_id and epoch in (None, key[1])]:
            self._give(self._giving.give_up(self._leases[key], now))
        for key in self._taking.requests():
            if key[0] == request_id and epoch in (None, key[1]):
                self._take(self._taking.cancel(key, now))

    def received(self, message: Message, sender: str) -> None:
        """Another engine says something."""
        if self.is_over:
            return
        now = self._kernel.now
        if isinstance(message, Offer):
            self._offered(message, sender)
            return
        if isinstance(message, Ready):
            self._take(self._taking.take(message, now))
        else:
            self._give(self._giving.take(message, sender, now))
            self._take(self._taking.take(message, now))

    def _offered(self, offer: Offer, sender: str) -> None:
        pages, num_known = None, 0
        if self._taking.wants(offer) and self._host.reserve(len(offer.pages)):
            pages, num_known = offer.pages, self._host.known_pages((offer.lease.request_id, offer.lease.epoch))
        self._take(self._taking.offered(offer, sender, pages, self._kernel.now, num_known=num_known))

    def _give(self, actions: list[GivingAction]) -> None:
        for action in actions:
            if isinstance(action, Release):
                key = action.lease.request_id, action.lease.epoch
                self._leases.pop(key, None)
                self._host.release_held(key)
            else:
                self._send(action.to, action.message)
        self._tick_soon()

    def _take(self, actions: list[TakingAction]) -> None:
        for action in actions:
            match action:
                case Send(to, message):
                    self._send(to, message)
                case Read():
                    self._read(action)
                case Adopt(key, pages):
                    self._host.adopt(key, len(pages), self._kernel.now - self._complete_at.pop(key, self._kernel.now))
                case Recompute(key):
                    self._complete_at.pop(key, None)
                    self._host.recompute(key)
                case FreePages(pages):
                    self._host.free_reserved(len(pages))
                case RecreateAgent():
                    self._kernel.after(RECREATION_S, self._recreated)
        self._tick_soon()

    def _read(self, read: Read) -> None:
        """Reads share the engine's link, one after the other."""
        spec, key = self._host.spec, (read.lease.request_id, read.lease.epoch)
        if read.first + len(read.sources) == len(read.pages):
            self._complete_at[key] = self._kernel.now
        num_bytes = len(read.sources) * PAGE_SIZE * spec.kv_bytes_per_token
        begins = max(self._kernel.now, self._link_free_at)
        self._link_free_at = begins + READ_LATENCY_S + num_bytes / spec.link_bytes_per_s
        self._kernel.at(self._link_free_at, self._read_ended, read)

    def _read_ended(self, read: Read) -> None:
        if not self.is_over:
            is_ok = self._is_there(read.lease.incarnation)
            self._take(self._taking.read_ended(read.handle, is_ok, self._kernel.now))

    def _recreated(self) -> None:
        if not self.is_over:
            self._take(self._taking.agent_recreated(self._kernel.now))

    def _tick_soon(self) -> None:
        if not self._ticks and not self.is_over and self.num_open:
            self._ticks = True
            self._kernel.after(TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticks = False
        if not self.is_over:
            self._give(self._giving.tick(self._kernel.now))
            self._take(self._taking.tick(self._kernel.now))
