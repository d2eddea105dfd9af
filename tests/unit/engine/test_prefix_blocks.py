"""What schedulers are told of the prefix cache is what it holds."""

import random

from sagellm_common.blocks import block_hashes
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.kv.pool import PagePool
from support.sequences import sequence


def prompt(family: int, length: int) -> list[int]:
    """A prompt of a family; those of a family begin alike."""
    return [(family * 7919 + place * 31) % 5000 for place in range(length)]


def compute(pool: PagePool, seq: SequenceState) -> None:
    """Let a sequence's tokens be computed in chunks of 200."""
    while seq.num_computed < len(seq.tokens):
        seq.num_computed = min(len(seq.tokens), seq.num_computed + 200)
        pool.index_computed(seq)


def test_told_blocks_are_those_that_a_prompt_would_find() -> None:
    """Through 400 prompts of eight families in a small pool, of which some run at once and pages are evicted.

    For every family the leading blocks that have been told are exactly those whose pages would be found.
    """
    chance = random.Random(5)
    pool, told, running = PagePool(120), set[int](), list[SequenceState]()
    for _ in range(400):
        seq = sequence(prompt(chance.randrange(8), chance.randrange(100, 900)))
        if pool.admit(seq, headroom=0):
            compute(pool, seq)
            running.append(seq)
        while running and (len(running) > 2 or chance.random() < 0.5):
            pool.release(running.pop(chance.randrange(len(running))))
        changes = pool.take_changes()
        if changes is not None:
            told = (told | set(changes.stored)) - set(changes.removed)
        for family in range(8):
            tokens = prompt(family, 900)
            found = len(pool._index.match(tokens, len(tokens)))
            hashes = block_hashes(tokens)
            run = next((number for number, block in enumerate(hashes) if block not in told), len(hashes))
            assert run == found
    assert pool.take_changes() is None


def test_tokens_made_by_the_model_make_blocks_too() -> None:
    """A conversation's next turn, which begins with the last answer, is known by the same hashes."""
    pool = PagePool(100)
    seq = sequence(prompt(1, 250), output=prompt(2, 270))
    assert pool.admit(seq, headroom=0)
    compute(pool, seq)
    changes = pool.take_changes()
    assert changes is not None
    assert changes.stored == block_hashes([*prompt(1, 250), *prompt(2, 270)])


def test_an_engine_without_a_prefix_cache_tells_nothing() -> None:
    """Nothing is hashed and nothing is told."""
    pool = PagePool(100, prefix_cache=False)
    seq = sequence(prompt(1, 600))
    assert pool.admit(seq, headroom=0)
    compute(pool, seq)
    assert pool.take_changes() is None
