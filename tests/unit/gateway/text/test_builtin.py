"""The built-in model's text side, against transformers, which reads the same folder."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sagellm_registry
from sagellm_gateway.text.model import TextModel

FOLDER = Path(sagellm_registry.__file__).parent / "builtin" / "sage-tiny"
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "é": "<&>"}}}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln"}}}
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " spaces \n and 🙂 "}],
    [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
    ],
]


@pytest.fixture(scope="module")
def model() -> TextModel:
    return TextModel.load(FOLDER)


@pytest.fixture(scope="module")
def reference() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(FOLDER)


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_chats_are_rendered_as_transformers_renders_them(
    model: TextModel, reference: Any, chat: list[dict[str, Any]], tools: Any
) -> None:
    """The rendered chat and its tokens are those of transformers."""
    rendered = model.render(chat, tools)
    assert rendered == reference.apply_chat_template(chat, tools=tools, tokenize=False, add_generation_prompt=True)
    assert model.encode(rendered, add_special=False) == reference(rendered, add_special_tokens=False)["input_ids"]


@given(text=st.text(max_size=60))
def test_any_text_streams_back(text: str) -> None:
    """Any text, encoded and streamed token by token, is the text again."""
    model = _loaded()
    detokenizer = model.detokenizer(skip_special=False)
    assert "".join(detokenizer.push([i]) for i in model.encode(text, add_special=False)) == text


def test_it_ends_at_its_own_end_token(model: TextModel, reference: Any) -> None:
    """The tokenizer's end token is among the end tokens."""
    assert reference.eos_token_id in model.eos_token_ids


def test_detokenizing_costs_microseconds(model: TextModel) -> None:
    """A token costs at most 5 µs of processor time (0.6 µs on a quiet machine)."""
    ids = model.encode("Once upon a time there was a fox. " * 200, add_special=False)
    detokenizer = model.detokenizer()
    start = time.process_time()
    for token_id in ids:
        detokenizer.push((token_id,))
    assert (time.process_time() - start) / len(ids) < 5e-6


_models: list[TextModel] = []


def _loaded() -> TextModel:
    """The model, loaded once; hypothesis takes no module fixtures."""
    if not _models:
        _models.append(TextModel.load(FOLDER))
    return _models[0]
