"""Reading a model folder, tokenizing, and rendering chats."""

import json
from pathlib import Path

import pytest

from sagellm_common.errors import InvalidArgument, NotFound, SageError
from sagellm_gateway.text.model import TextModel
from support import tokenizers as tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> TextModel:
    return TextModel.load(folder)


def test_text_goes_to_tokens_and_back(model: TextModel) -> None:
    """Encoding and streaming back gives the text; special tokens leave none."""
    ids = model.encode("the fox <|im_end|> 🙂", add_special=True)
    detokenizer = model.detokenizer()
    assert detokenizer.push(ids) + detokenizer.flush() == "the fox  🙂"
    assert "<|im_end|>" in model.detokenizer(skip_special=False).push(ids)
    assert "".join(model.token_text(i) for i in model.encode("the fox", add_special=False)) == "the fox"


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path: Path) -> None:
    """A tokenizer.json with truncation or padding (some ship so) gives the whole text and no more."""
    tokenizer = tiny.byte_level()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    model = TextModel.load(tiny.write_model_folder(tmp_path, tokenizer))
    assert "".join(map(model.token_text, model.encode("the quick fox", add_special=False))) == "the quick fox"


def test_a_chat_is_rendered_by_the_models_template(model: TextModel) -> None:
    """Roles, text parts, tools and tool calls reach the template; JSON in it is not HTML-escaped."""
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": "<é>"}'}}
            ],
        },
    ]
    rendered = model.render(messages, [{"type": "function", "function": {"name": "f"}}])
    assert rendered == (
        "<s><|im_start|>system\nBe brief.<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>{"name": "f", "arguments": {"a": "<é>"}}</tool_call><|im_end|>\n'
        'tools: [{"type": "function", "function": {"name": "f"}}]\n'
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{% for m in [1, 2] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}", "1"),
        ("{{ strftime_now('%%') }}", "%"),
        ("{% if true %}\n  yes\n{% endif %}\n", "  yes\n"),
        ("{{ {'b': 1, 'a': '&'} | tojson(indent=1) }}", '{\n "b": 1,\n "a": "&"\n}'),
    ],
)
def test_templates_have_what_transformers_offers(tmp_path: Path, template: str, expected: str) -> None:
    """Loop controls, generation blocks, strftime_now, block trimming and a plain tojson work."""
    model = TextModel.load(tiny.write_model_folder(tmp_path, chat_template=template))
    assert model.render([], None) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.mro() }}",
        "{{ 1/0 }}",
    ],
)
def test_a_template_that_refuses_is_an_invalid_argument(tmp_path: Path, template: str) -> None:
    """raise_exception, a mutation, an escape from the sandbox and a fault in a template all end as a typed error."""
    model = TextModel.load(tiny.write_model_folder(tmp_path, chat_template=template))
    with pytest.raises(InvalidArgument) as caught:
        model.render([{"role": "user", "content": "hi"}], None)
    assert caught.value.param == "messages"


def test_templates_come_from_files_too(tmp_path: Path) -> None:
    """chat_template.jinja wins over the config, and a tool_use template is taken when there are tools."""
    tiny.write_model_folder(tmp_path, chat_template=[{"name": "default", "template": "config"}])
    (tmp_path / "chat_template.jinja").write_text("file")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    model = TextModel.load(tmp_path)
    assert (model.render([], None), model.render([], [{}])) == ("file", "tools")


def test_a_model_without_a_template_says_what_to_do(tmp_path: Path) -> None:
    """Chats need a template; the error points to completions."""
    model = TextModel.load(tiny.write_model_folder(tmp_path, chat_template=None))
    assert not model.has_chat_template
    with pytest.raises(InvalidArgument, match="no chat template"):
        model.render([{"role": "user", "content": "hi"}], None)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "user", "content": ["text"]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
        {"role": "assistant", "tool_calls": [{}]},
    ],
)
def test_a_message_that_is_not_text_is_refused(model: TextModel, message: dict[str, object]) -> None:
    """Images, malformed parts and malformed tool calls are invalid arguments that name the message."""
    with pytest.raises(InvalidArgument) as caught:
        model.render([message], None)
    assert str(caught.value.param).startswith("messages.0")


def test_end_tokens_are_the_union_of_what_the_files_name(tmp_path: Path) -> None:
    """generation_config.json, config.json and the tokenizer's own end token all count."""
    tiny.write_model_folder(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 7]}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 9}))
    assert TextModel.load(tmp_path).eos_token_ids == {1, 3, 7, 9}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer.json", b'{"model": 3}'),
        ("tokenizer.json", None),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b'{"chat_template": [3]}'),
        ("tokenizer_config.json", b'{"chat_template": "{% if %}"}'),
        ("chat_template.jinja", b"{{"),
        ("generation_config.json", b"nonsense"),
    ],
)
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    """A typed error names the file that is damaged or missing."""
    tiny.write_model_folder(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SageError, match=name) as caught:
        TextModel.load(tmp_path)
    assert isinstance(caught.value, NotFound | InvalidArgument)


def test_a_lone_surrogate_is_refused(model: TextModel) -> None:
    """Text that is not valid Unicode is an invalid argument."""
    with pytest.raises(InvalidArgument, match="surrogate"):
        model.encode("a\ud800", add_special=False)
