"""The shipped tokenizer and chat template."""

import json
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from builtin_model.chat import TEMPLATE_FILE, render
from builtin_model.corpus.document import Document
from builtin_model.corpus.mixture import documents
from builtin_model.presets import BUILTIN_FOLDER
from builtin_model.tokenizer import SPECIAL_TOKENS, TOOL_TAGS, VOCAB_SIZE

FOLDER = BUILTIN_FOLDER / "sage-tiny"
TOKENIZER = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "It's <b>", "parameters": {"type": "object"}},
}


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text: str) -> None:
    """Decoding gives back the very text that was encoded, whatever its characters."""
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@given(st.integers(min_value=0))
def test_every_digit_is_its_own_token(number: int) -> None:
    """Numbers are read digit by digit."""
    assert TOKENIZER.encode(str(number), add_special_tokens=False).tokens == list(str(number))


def test_special_tokens_are_single_tokens() -> None:
    """ChatML marks and tool tags are one token each; only the marks are special."""
    for text in (*SPECIAL_TOKENS, *TOOL_TAGS):
        assert len(TOKENIZER.encode(text).ids) == 1
    tags = TOKENIZER.encode("".join(TOOL_TAGS)).ids
    assert TOKENIZER.decode(tags, skip_special_tokens=True) == "".join(TOOL_TAGS)
    assert TOKENIZER.get_vocab_size() == VOCAB_SIZE


def test_the_shipped_template_is_the_one_of_training() -> None:
    """The template in the folder, in tokenizer_config.json and in the training code are one and the same."""
    source = TEMPLATE_FILE.read_text(encoding="utf-8")
    assert (FOLDER / "chat_template.jinja").read_text(encoding="utf-8") == source
    config = json.loads((FOLDER / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["chat_template"] == source


def test_transformers_renders_the_same_chats() -> None:
    """Our rendering equals transformers' for hundreds of documents, tools and tool answers among them."""
    theirs = AutoTokenizer.from_pretrained(FOLDER)
    for document in islice(documents("rendering"), 300):
        if document.text or document.sorted_schemas:
            continue
        expected = theirs.apply_chat_template(
            list(document.messages), tools=list(document.tools) or None, tokenize=False
        )
        assert render(document) == expected


def test_tools_are_rendered_in_the_hermes_format() -> None:
    """Tools stand in the system message, a call in its tags, a tool's answer in a user message."""
    call = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    text = render(
        Document(
            skill="tools",
            tools=(TOOL,),
            messages=(
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "sunny"},
                {"role": "tool", "content": "warm"},
            ),
        ),
        add_generation_prompt=True,
    )
    assert text.startswith("<|im_start|>system\nBe kind.\n\n# Tools\n\n")
    assert f"<tools>\n{json.dumps(TOOL)}\n</tools>" in text
    assert "<|im_start|>user\nWeather?<|im_end|>\n" in text
    assert (
        "<|im_start|>assistant\n<tool_call>\n"
        '{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n' in text
    )
    answers = "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nwarm\n</tool_response>"
    assert text.endswith(f"<|im_start|>user\n{answers}<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("messages", [(), ({"role": "user", "content": "Hi"},)])
def test_there_is_no_hidden_system_message(messages: tuple[dict[str, str], ...]) -> None:
    """Without tools and without a system message the model reads what was said and nothing else."""
    text = render(Document(skill="small_talk", messages=messages), add_generation_prompt=True)
    said = "".join(f"<|im_start|>user\n{m['content']}<|im_end|>\n" for m in messages)
    assert text == said + "<|im_start|>assistant\n"
