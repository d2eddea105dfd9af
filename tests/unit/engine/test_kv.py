"""Pages: none is lost, and a prefix match never returns other tokens."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sagellm_common.errors import Internal
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.kv.pool import PAGE_SIZE, PagePool
from support.sequences import sequence

pytestmark = pytest.mark.acceptance(114)

# few different tokens, so that prefixes meet often
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=5 * PAGE_SIZE) | st.integers(1, 80).map(lambda n: [0] * n)


class PoolMachine(RuleBasedStateMachine):
    """Admits, computes, grows, releases and forgets in any order, keeping a model of what each page holds."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(12)
        self.running: list[SequenceState] = []
        self.content: dict[int, tuple[int, ...]] = {}  # page → the prefix up to its end, as computed

    def _write(self, seq: SequenceState, stop: int) -> None:
        for page_number in range(seq.num_computed // PAGE_SIZE, -(-stop // PAGE_SIZE)):
            end = min(stop, (page_number + 1) * PAGE_SIZE)
            self.content[seq.pages[page_number]] = tuple(seq.tokens[:end])
        seq.num_computed = stop
        self.pool.index_computed(seq)

    @rule(tokens=TOKENS, headroom=st.integers(0, 3))
    def admit(self, tokens: list[int], headroom: int) -> None:
        seq = sequence(tokens)
        free = self.pool.num_free + self.pool.num_cached
        if not self.pool.admit(seq, headroom):
            assert seq.pages == []
            assert self.pool.num_free + self.pool.num_cached == free
            return
        assert seq.num_computed < len(tokens)
        for page_number in range(seq.num_computed // PAGE_SIZE):
            end = (page_number + 1) * PAGE_SIZE
            assert self.content[seq.pages[page_number]] == tuple(tokens[:end]), "a match of other tokens"
        self.running.append(seq)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(self.running))
        if seq.num_computed < len(seq.tokens):
            self._write(seq, data.draw(st.integers(seq.num_computed + 1, len(seq.tokens))))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), token=st.integers(0, 1))
    def decode(self, data: st.DataObject, token: int) -> None:
        seq = data.draw(st.sampled_from(self.running))
        if seq.num_computed == len(seq.tokens):
            seq.tokens.append(token)
            if len(seq.tokens) > seq.capacity and not self.pool.grow(seq):
                seq.tokens.pop()
                assert self.pool.num_free == self.pool.num_cached == 0

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(self.running))
        self.running.remove(seq)
        self.pool.release(seq)
        assert seq.pages == []

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def distrust(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(self.running))
        self.pool.forget(list(seq.pages))
        self.running.remove(seq)
        self.pool.release(seq)

    @invariant()
    def nothing_is_lost(self) -> None:
        self.pool.check(self.running)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def admitted(pool: PagePool, tokens: list[int]) -> SequenceState:
    """Admit a sequence and compute all of it."""
    seq = sequence(tokens)
    assert pool.admit(seq, 0)
    seq.num_computed = len(tokens)
    pool.index_computed(seq)
    return seq


def test_equal_pages_behind_different_prefixes() -> None:
    """The same page of tokens behind another prefix is not a match."""
    pool = PagePool(16)
    admitted(pool, [1] * 16 + [2] * 16 + [9])
    other = sequence([3] * 16 + [2] * 16 + [9])
    assert pool.admit(other, 0)
    assert other.cached_tokens == 0


def test_orphans_are_not_found_through_a_new_parent() -> None:
    """A page whose predecessor was forgotten and computed anew is not taken for the new one's successor."""
    pool = PagePool(16)
    first = admitted(pool, [1] * 32 + [9])
    pool.forget(first.pages[:1])
    admitted(pool, [1] * 16 + [5])
    again = sequence([1] * 32 + [9])
    assert pool.admit(again, 0)
    assert again.cached_tokens == 16


def test_least_recently_used_goes_first() -> None:
    """Under pressure the prefix that was used last stays, and of one prefix its beginning."""
    pool = PagePool(5)
    old, new = admitted(pool, [1] * 33), admitted(pool, [2] * 32)
    pool.release(old)
    pool.release(new)
    pressing = admitted(pool, [3] * 32)
    pool.release(pressing)
    for tokens, cached in (([2] * 33, 32), ([1] * 33, 0)):
        seq = sequence(tokens)
        assert pool.admit(seq, 0)
        assert seq.cached_tokens == cached
        pool.release(seq)


def test_one_token_is_always_left_to_compute() -> None:
    """A prompt that is cached to its last token still computes its last page."""
    pool = PagePool(8)
    pool.release(admitted(pool, [1] * 32))
    seq = sequence([1] * 32)
    assert pool.admit(seq, 0)
    assert seq.cached_tokens == 16


def test_without_prefix_cache_nothing_is_kept() -> None:
    """With the prefix cache off every released page is free at once."""
    pool = PagePool(8, prefix_cache=False)
    pool.release(admitted(pool, [1] * 40))
    assert (pool.num_free, pool.num_cached) == (8, 0)


def test_a_lost_page_is_reported() -> None:
    """A page that nobody has any more makes the check fail with the figures."""
    pool = PagePool(8)
    seq = admitted(pool, [1] * 40)
    seq.pages.pop()
    with pytest.raises(Internal, match="do not add up"):
        pool.check([seq])
