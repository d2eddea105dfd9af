"""Splitting what does not fit into one message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_common.codec import encode
from sagellm_common.contracts.frames import TokenItem
from sagellm_common.errors import PayloadTooLarge
from sagellm_engine.service.frames import fitting, split, split_tokens


def _item(num_tokens: int, *, finish: str | None = "stop") -> TokenItem:
    tokens = list(range(num_tokens))
    return TokenItem("r", 1, 0, 10, tokens, [[-float(t), []] for t in tokens], finish, None, cached_tokens=4)


@given(st.integers(2, 50))
def test_two_halves_say_what_the_whole_said(num_tokens: int) -> None:
    """Tokens and log-probabilities are divided without loss; only the second half tells the end."""
    whole = _item(num_tokens)
    head, tail = split_tokens(whole)
    assert head.token_ids + tail.token_ids == whole.token_ids
    assert (head.logprobs or []) + (tail.logprobs or []) == whole.logprobs
    assert (head.first_index, tail.first_index) == (10, 10 + len(head.token_ids))
    assert (head.finish, tail.finish) == (None, "stop")
    assert head.token_ids
    assert tail.token_ids


def test_a_list_is_halved_before_its_items_are() -> None:
    """Several items are divided between two messages, a single one is cut."""
    items = [_item(3) for _ in range(5)]
    assert [len(part) for part in split(items)] == [2, 3]
    assert [len(part[0].token_ids) for part in split(items[:1])] == [1, 2]


def test_a_single_token_cannot_be_cut() -> None:
    """What cannot be divided is a typed error."""
    with pytest.raises(PayloadTooLarge):
        list(split([_item(1)]))


def test_as_much_as_fits_is_kept_from_the_beginning() -> None:
    """A resend that is too big is cut behind, so that the receiver can ask for the rest."""
    whole = _item(100)
    part = fitting(whole, 300)
    assert len(encode(part)) <= 300
    assert part.token_ids == whole.token_ids[: len(part.token_ids)]
    assert part.finish is None
    assert fitting(whole, 100_000) == whole
