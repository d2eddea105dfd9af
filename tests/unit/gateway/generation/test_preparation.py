"""From a client's request to tokens and complete options."""

from pathlib import Path
from typing import Any

import pytest

from sagellm_common.blocks import BLOCK_TOKENS, block_hashes
from sagellm_common.contracts.generate import GenerateRequest
from sagellm_common.errors import InvalidArgument
from sagellm_gateway.generation.preparation import end_token_ids, is_short, prepare
from sagellm_gateway.text.model import TextModel
from support.tokenizers import write_model_folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    """A tiny text model."""
    folder: Path = tmp_path_factory.mktemp("model")
    return TextModel.load(write_model_folder(folder))


def ask(**fields: Any) -> GenerateRequest:
    """A request for a short prompt, unless said otherwise."""
    return GenerateRequest.model_validate({"prompt": "the fox", **fields})


def test_what_is_left_open_is_filled_in(texts: TextModel) -> None:
    """A seed is minted, and the answer may fill what the context leaves, or the default."""
    first, second = prepare(ask(), texts, 100, None), prepare(ask(), texts, 100, None)
    assert first.sampling.seed != second.sampling.seed
    assert first.sampling.max_tokens == 100 - len(first.prompt_token_ids)
    assert prepare(ask(), texts, 100, 5).sampling.max_tokens == 5
    assert prepare(ask(sampling={"seed": 4, "max_tokens": 7}), texts, 100, 5).sampling.seed == 4


def test_token_ids_are_taken_as_they_are(texts: TextModel) -> None:
    """A prompt of tokens is not tokenized, only checked against the vocabulary."""
    assert prepare(ask(prompt=[5, 6, 7]), texts, 100, None).prompt_token_ids == [5, 6, 7]
    with pytest.raises(InvalidArgument, match="token ids"):
        prepare(ask(prompt=[texts.vocab_size]), texts, 100, None)


@pytest.mark.parametrize(("length", "fits"), [(99, True), (100, False), (101, False)])
def test_the_context_holds_prompt_and_one_token_of_the_answer(texts: TextModel, length: int, fits: bool) -> None:
    """A prompt that leaves no room is refused, and the message has the figures."""
    request = ask(prompt=[5] * length)
    if fits:
        assert prepare(request, texts, 100, None).sampling.max_tokens == 1
    else:
        with pytest.raises(InvalidArgument, match="100"):
            prepare(request, texts, 100, None)


def test_equal_prefixes_have_equal_block_hashes() -> None:
    """Hashes are chained: they agree up to the first block that differs, and hold for whole blocks only."""
    tokens = list(range(3 * BLOCK_TOKENS + 5))
    changed = [*tokens[:BLOCK_TOKENS], 9, *tokens[BLOCK_TOKENS + 1 :]]
    one, other = block_hashes(tokens), block_hashes(changed)
    assert len(one) == 3
    assert one[0] == other[0]
    assert one[1] != other[1]
    assert one[2] != other[2]
    assert all(0 <= value < 2**63 for value in one)
    assert block_hashes(tokens[: BLOCK_TOKENS - 1]) == ()


def test_the_prefix_hash_holds_for_short_prompts_too(texts: TextModel) -> None:
    """Short prompts are told apart; the same prompt has the same hash."""
    one, same, other = (prepare(ask(prompt=p), texts, 100, None).prefix_hash for p in ([5, 6], [5, 6], [5, 7]))
    assert one == same != other


def test_the_prefix_hash_tells_chats_apart_that_share_instructions(texts: TextModel) -> None:
    """Chats that begin with the same hundred tokens are not all of one prefix; what comes after 256 does not count."""

    def prefix(*tokens: int) -> int:
        return prepare(ask(prompt=list(tokens)), texts, 1000, None).prefix_hash

    instructions, question = [7] * 100, [8] * 156
    assert prefix(*instructions, *question) != prefix(*instructions, *[9] * 156)
    assert prefix(*instructions, *question) == prefix(*instructions, *question, *[9] * 50)


def test_end_tokens_follow_the_options(texts: TextModel) -> None:
    """The model's end tokens count unless they are ignored; stop token ids always do."""
    eos = frozenset(texts.eos_token_ids)
    assert eos
    assert end_token_ids(ask(sampling={"stop_token_ids": [3]}).sampling, texts) == eos | {3}
    assert end_token_ids(ask(sampling={"ignore_eos": True}).sampling, texts) == frozenset()


def test_long_prompts_are_for_a_thread() -> None:
    """Only what takes less than the way to a thread is prepared on the event loop."""
    assert is_short(ask())
    assert not is_short(ask(prompt="x" * 501))
    assert not is_short(ask(prompt=[1] * 5000))
    chat = {"prompt": None, "messages": [{"role": "user", "content": "hi"}]}
    assert is_short(ask(**chat))
    assert not is_short(ask(**chat, tools=[{"type": "function"}]))
