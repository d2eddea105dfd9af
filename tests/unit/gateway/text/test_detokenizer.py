"""Incremental detokenization against the tokenizer's own full decode."""

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from sagellm_common.errors import NotImplementedByServer
from sagellm_gateway.text.detokenizer import Detokenizer
from sagellm_gateway.text.token_bytes import TokenBytes
from support import tokenizers as tiny

TOKENIZERS = {make.__name__: make() for make in (tiny.byte_level, tiny.metaspace, tiny.word_piece)}
BYTE_FALLBACK = tiny.byte_fallback()


def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special)


def chunked(ids: list[int], cuts: Iterable[int]) -> list[list[int]]:
    edges = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    return [ids[a:b] for a, b in itertools.pairwise(edges)]


def stream(detokenizer: Detokenizer, chunks: list[list[int]]) -> str:
    return "".join([detokenizer.push(chunk) for chunk in chunks]) + detokenizer.flush()


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("skip_special", [True, False])
@given(data=st.data())
def test_a_stream_equals_the_full_decode_for_any_ids_and_chunks(
    name: str, skip_special: bool, data: st.DataObject
) -> None:
    """Whatever the ids (special and unknown ones too) and the chunks, the stream's text is the full decode's."""
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() + 3), max_size=24))
    chunks = chunked(ids, data.draw(st.lists(st.integers(0, 24), max_size=6)))
    skip = special_ids(tokenizer) if skip_special else frozenset()
    streamed = stream(Detokenizer(TokenBytes(tokenizer), skip), chunks)
    assert streamed == tokenizer.decode(ids, skip_special_tokens=skip_special)


@given(text=st.text(max_size=30), cuts=st.lists(st.integers(0, 80), max_size=6))
def test_byte_tokens_join_to_characters(text: str, cuts: list[int]) -> None:
    """With SentencePiece byte tokens the stream of an encoded text is the full decode of it."""
    ids = BYTE_FALLBACK.encode(text).ids
    streamed = stream(Detokenizer(TokenBytes(BYTE_FALLBACK), special_ids(BYTE_FALLBACK)), chunked(ids, cuts))
    assert streamed == BYTE_FALLBACK.decode(ids)


@pytest.mark.parametrize("tokenizer", [TOKENIZERS["byte_level"], BYTE_FALLBACK])
@given(text=st.text(alphabet="a東🙂é", min_size=1, max_size=12))
def test_a_character_is_never_split(tokenizer: Tokenizer, text: str) -> None:
    """Token by token, only whole characters come out; U+FFFD never does for a valid text."""
    detokenizer = Detokenizer(TokenBytes(tokenizer))
    pieces = [detokenizer.push([i]) for i in tokenizer.encode(text).ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces).strip() == text


def test_a_character_that_never_ends_becomes_a_replacement() -> None:
    """A stream cut inside of a character ends with U+FFFD on flush, and not before."""
    tokenizer = TOKENIZERS["byte_level"]
    first_byte_of_smiley = tokenizer.token_to_id("ð")
    detokenizer = Detokenizer(TokenBytes(tokenizer))
    assert detokenizer.push([first_byte_of_smiley]) == ""
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""


@pytest.mark.parametrize("decoder", [decoders.CTC(), decoders.BPEDecoder(), decoders.Strip(" ", 0, 1)])
def test_a_decoder_that_cannot_be_streamed_is_refused(decoder: decoders.Decoder) -> None:
    """A decoder whose token texts depend on what follows is refused by name, not streamed wrongly."""
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    tokenizer.decoder = decoder
    with pytest.raises(NotImplementedByServer, match="cannot be streamed"):
        TokenBytes(tokenizer)
