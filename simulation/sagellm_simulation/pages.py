"""KV pages of a simulated engine: counted, not held. Prefixes are known by the ids of their blocks."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from sagellm_simulation.specs import PAGE_SIZE


@dataclass(slots=True, eq=False)
class Sequence:
    """One request on a simulated engine. Lengths in tokens.

    `length` is the prompt with everything generated so far, `computed` how much of it has keys and values; at `limit`
    it ends. `capacity` tokens fit into its pages. `first_index` is the index of the first token that this engine
    makes. `blocks` are the ids of the prompt's blocks, each standing for all before it too; `known` of them are in
    the cache under its hold; `foreseen` tokens were in the cache when it began to wait. `told` is the index up to
    which tokens have been sent. `hand_to`: the engine that it is prefilled for; it ends with its prompt here.
    `itl_s`: the time from token to token that it is promised.
    """

    request_id: str
    epoch: int
    gateway_id: str
    priority: int
    arrival: float
    order: int
    prompt: int
    length: int
    limit: int
    first_index: int
    blocks: tuple[int, ...] = ()
    computed: int = 0
    scheduled: int = 0
    own_pages: int = 0
    capacity: int = 0
    known: int = 0
    held: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    foreseen: int = 0
    told: int = 0
    told_at: float = 0.0
    hand_to: str = ""
    transfer_ms: float | None = None
    itl_s: float | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.request_id, self.epoch

    @property
    def next_index(self) -> int:
        """Index behind its last token."""
        return self.first_index + self.length - self.prompt


class PageCount:
    """free + cached + held + reserved = total, as in the engine's page pool; `block` tokens, a multiple of a page, are
    a block.

    `stored` and `removed` gather the blocks that have become known and unknown.
    """

    def __init__(self, total: int, block: int) -> None:
        self.total, self.block = total, block
        self.free = total
        self.reserved = 0
        self._block_pages = block // PAGE_SIZE
        self._holders: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self.stored: list[int] = []
        self.removed: list[int] = []

    def __iter__(self) -> Iterator[int]:
        """All known blocks."""
        return iter(self._holders)

    @property
    def cached(self) -> int:
        """Pages that nobody holds and that a matching prompt may use again."""
        return len(self._idle) * self._block_pages

    def __contains__(self, block: int) -> bool:
        """Return whether a block is known."""
        return block in self._holders

    def admit(self, seq: Sequence, headroom: int) -> bool:
        """Give pages for all its tokens; False, changing nothing, if too few are left beside `headroom`."""
        found = self.prefix(seq)
        new = pages_for(seq.length) - len(found) * self._block_pages
        idle = sum(1 for block in found if block in self._idle)
        if self.free + self.cached - idle * self._block_pages < new + headroom:
            return False
        for block in found:
            self._hold(block)
        self._take(new)
        seq.held, seq.known, seq.own_pages = found, len(found), new
        seq.capacity = new * PAGE_SIZE + len(found) * self.block
        seq.computed = seq.cached_tokens = len(found) * self.block
        return True

    def prefix(self, seq: Sequence) -> list[int]:
        """The known blocks that its tokens begin with; at least one token is not in them."""
        found = []
        for number, block in enumerate(seq.blocks):
            if block not in self._holders or (number + 1) * self.block >= seq.length:
                break
            found.append(block)
        return found

    def grow(self, seq: Sequence, pages: int = 1) -> bool:
        """Give a sequence more pages; False, changing nothing, if they are not left."""
        if self.free + self.cached < pages:
            return False
        self._take(pages)
        seq.own_pages += pages
        seq.capacity += pages * PAGE_SIZE
        return True

    def reserve(self, pages: int, headroom: int) -> bool:
        """Set pages apart; False, changing nothing, if too few are left beside `headroom`."""
        if self.free + self.cached < pages + headroom:
            return False
        self._take(pages)
        self.reserved += pages
        return True

    def free_reserved(self, pages: int) -> None:
        """Give reserved pages back."""
        self.reserved -= pages
        self.free += pages

    def adopt(self, seq: Sequence, pages: int) -> None:
        """Give reserved pages, which hold all its tokens, to a sequence."""
        self.reserved -= pages
        seq.own_pages, seq.capacity, seq.computed = pages, pages * PAGE_SIZE, seq.length
        self.index_computed(seq)

    def index_computed(self, seq: Sequence) -> None:
        """Make the blocks that a sequence has filled known to later prompts."""
        while seq.known < min(len(seq.blocks), seq.computed // self.block):
            block = seq.blocks[seq.known]
            seq.known += 1
            if block not in self._holders:
                self._holders[block] = 1
                self.stored.append(block)
                seq.held.append(block)
                seq.own_pages -= self._block_pages

    def release(self, seq: Sequence) -> None:
        """Take back a sequence's pages; known blocks that nobody else holds stay cached, the last to go first."""
        for block in reversed(seq.held):
            self._holders[block] -= 1
            if not self._holders[block]:
                self._idle[block] = None
        self.free += seq.own_pages
        seq.own_pages, seq.held, seq.capacity, seq.known, seq.computed = 0, [], 0, 0, 0

    def _hold(self, block: int) -> None:
        self._idle.pop(block, None)
        self._holders[block] += 1

    def _take(self, pages: int) -> None:
        while self.free < pages:
            block, _ = self._idle.popitem(last=False)
            del self._holders[block]
            self.removed.append(block)
            self.free += self._block_pages
        self.free -= pages


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE_SIZE)
