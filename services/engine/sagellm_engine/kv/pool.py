"""The page pool: hands out pages, keeps released ones that hold a known prefix, and proves that none is lost."""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sagellm_common.blocks import BLOCK_TOKENS, chained_hash
from sagellm_common.errors import Internal
from sagellm_engine.core.sequence import SequenceState, SequenceStatus
from sagellm_engine.core.types import CacheChanges
from sagellm_engine.kv.prefix_index import ROOT, PrefixIndex, PrefixNode

PAGE_SIZE = BLOCK_TOKENS
"""Tokens per page: schedulers know a prefix as far as the cache holds it."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """Pages that are set apart for a prompt; those of its first `num_known` tokens hold their keys and values."""

    pages: tuple[int, ...]
    num_known: int = 0


class PagePool:
    """Every page is free, cached (indexed, used by nobody), held by one or more sequences, or reserved.

    Cached pages are taken back least recently used first; of one prefix the last page goes first, because pages are
    released from the end of a sequence.

    A page is an index block too, which is known by its chained hash. Which blocks have become known or unknown is
    gathered until `take_changes`: for schedulers, which see no tokens.
    """

    def __init__(self, num_pages: int, *, prefix_cache: bool = True) -> None:
        self.num_pages = num_pages
        self._index = PrefixIndex(PAGE_SIZE)
        self._prefix_cache = prefix_cache
        self._free = list(range(num_pages - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._holders = [0] * num_pages
        self._blocks: dict[int, int] = {}  # indexed page: its block's hash
        self._changes: dict[int, bool] = {}  # block: whether it has become known
        self._reserved: set[tuple[int, ...]] = set()

    @property
    def num_free(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Pages that nobody holds and that a matching prompt may use again."""
        return len(self._cached)

    def admit(self, seq: SequenceState, headroom: int) -> bool:
        """Give a sequence pages for all its tokens, known prefixes first; False, changing nothing, if too few are left.

        `headroom` pages stay available to the sequences that already run. At least one token is left to compute,
        since the next one is chosen from its output.
        """
        nodes = self._index.match(seq.tokens, len(seq.tokens) - 1)
        num_new = -(-len(seq.tokens) // PAGE_SIZE) - len(nodes)
        if not self._is_left(nodes, num_new + headroom):
            return False
        for node in nodes:
            self._hold(node.page)
        seq.pages = [node.page for node in nodes]
        seq.pages.extend(self._take() for _ in range(num_new))
        seq.capacity = len(seq.pages) * PAGE_SIZE
        seq.num_computed = seq.cached_tokens = len(nodes) * PAGE_SIZE
        seq.num_indexed = len(nodes)
        seq.prefix_node = nodes[-1].number if nodes else ROOT
        seq.block_hash = self._blocks[nodes[-1].page] if nodes else 0
        return True

    def foresee(self, seq: SequenceState) -> None:
        """Note how much of a sequence would not have to be computed if it were admitted now."""
        seq.foreseen = len(self._index.match(seq.tokens, len(seq.tokens) - 1)) * PAGE_SIZE

    def grow(self, seq: SequenceState) -> bool:
        """Give a running sequence one more page; False if none is left."""
        if not self._free and not self._cached:
            return False
        seq.pages.append(self._take())
        seq.capacity += PAGE_SIZE
        return True

    @property
    def num_reservations(self) -> int:
        """Reservations that are neither adopted nor freed yet."""
        return len(self._reserved)

    def reserve(self, tokens: Sequence[int], headroom: int, unit: int = PAGE_SIZE) -> Reserved | None:
        """Set pages for tokens, at least one, apart, known prefixes first, of a multiple of `unit` tokens; None,
        changing nothing, if fewer than `headroom` other pages would be left.

        At least one token is not taken from a known prefix, so that there is something to read.
        """
        nodes = self._index.match(tokens, len(tokens) - 1)
        nodes = nodes[: len(nodes) * PAGE_SIZE // unit * unit // PAGE_SIZE]
        num_new = -(-len(tokens) // PAGE_SIZE) - len(nodes)
        if not self._is_left(nodes, num_new + headroom):
            return None
        for node in nodes:
            self._hold(node.page)
        pages = (*(node.page for node in nodes), *(self._take() for _ in range(num_new)))
        self._reserved.add(pages)
        return Reserved(pages, len(nodes) * PAGE_SIZE)

    def free_reserved(self, pages: tuple[int, ...]) -> None:
        """Take reserved pages back; those of a known prefix stay cached."""
        self._reserved.remove(pages)
        self._let_go(pages)

    def adopt(self, seq: SequenceState, pages: tuple[int, ...]) -> None:
        """Give reserved pages, which hold all tokens of a sequence, to it; it runs from now on."""
        self._reserved.remove(pages)
        seq.status = SequenceStatus.RUNNING
        seq.pages = list(pages)
        seq.capacity = len(pages) * PAGE_SIZE
        seq.num_computed = len(seq.tokens)
        self.index_computed(seq)

    def index_computed(self, seq: SequenceState) -> None:
        """Make the pages that a sequence has filled known to later prompts."""
        if not self._prefix_cache:
            return
        for page_number in range(seq.num_indexed, seq.num_computed // PAGE_SIZE):
            start = page_number * PAGE_SIZE
            tokens = tuple(seq.tokens[start : start + PAGE_SIZE])
            seq.prefix_node = self._index.add(seq.prefix_node, tokens, seq.pages[page_number])
            seq.num_indexed = page_number + 1
            self._note_block(seq, tokens, seq.pages[page_number])

    def release(self, seq: SequenceState) -> None:
        """Take back a sequence's pages; indexed ones that nobody else holds stay cached."""
        self._let_go(seq.pages)
        seq.forget_progress()

    def forget(self, pages: Iterable[int]) -> None:
        """Make pages unknown to later prompts, because what they hold cannot be trusted."""
        for page in pages:
            self._unindex(page)
            if page in self._cached:
                del self._cached[page]
                self._free.append(page)

    def is_held(self, page: int) -> bool:
        """Return whether a running sequence holds a page."""
        return self._holders[page] > 0

    def check(self, holding: Iterable[SequenceState]) -> None:
        """Prove that free + cached + held by sequences + reserved = total; raise Internal with the figures if not."""
        held = Counter(page for seq in holding for page in seq.pages)
        held.update(page for pages in self._reserved for page in pages)
        wrong = [page for page in range(self.num_pages) if self._holders[page] != held[page]]
        apart = set(self._free).isdisjoint(held) and set(self._cached).isdisjoint(held)
        total = len(set(self._free)) + len(self._cached) + len(held)
        if wrong or not apart or total != self.num_pages:
            raise Internal(
                f"KV pages do not add up: {len(self._free)} free + {len(self._cached)} cached + {len(held)} held "
                f"of {self.num_pages}; pages with a wrong number of holders: {wrong[:8]}"
            )

    def take_changes(self) -> CacheChanges | None:
        """Return which index blocks have become known and unknown since the last call, None if none has."""
        if not self._changes:
            return None
        changes, self._changes = self._changes, {}
        stored = tuple(block for block, is_known in changes.items() if is_known)
        return CacheChanges(stored, tuple(block for block, is_known in changes.items() if not is_known))

    def _note_block(self, seq: SequenceState, tokens: Sequence[int], page: int) -> None:
        seq.block_hash = chained_hash(seq.block_hash, tokens)
        if page in self._index:  # else an equal one was there before
            self._blocks[page] = seq.block_hash
            self._changes[seq.block_hash] = True

    def _unindex(self, page: int) -> None:
        self._index.remove(page)
        block = self._blocks.pop(page, None)
        if block is not None:
            self._changes[block] = False

    def _is_left(self, nodes: Sequence[PrefixNode], num_pages: int) -> bool:
        """Whether so many pages could be taken beside those of a known prefix."""
        num_idle = sum(1 for node in nodes if not self._holders[node.page])
        return len(self._free) + len(self._cached) - num_idle >= num_pages

    def _let_go(self, pages: Sequence[int]) -> None:
        for page in reversed(pages):
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if page in self._index:
                self._cached[page] = None
            else:
                self._free.append(page)

    def _hold(self, page: int) -> None:
        if not self._holders[page]:
            del self._cached[page]
        self._holders[page] += 1

    def _take(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._cached.popitem(last=False)
            self._unindex(page)
        self._holders[page] = 1
        return page
