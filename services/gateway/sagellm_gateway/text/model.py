"""A model's text side: tokenizer, chat template and end tokens, read from its Hugging Face folder."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from sagellm_common.errors import InvalidArgument, NotFound
from sagellm_gateway.text.chat_template import ChatTemplate
from sagellm_gateway.text.detokenizer import Detokenizer
from sagellm_gateway.text.files import read_object, read_text
from sagellm_gateway.text.token_bytes import TokenBytes

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# The library's `encode` keeps the interpreter's lock to the end, so that no thread helps: a million characters would
# stop every stream for 2.5 s. A batch lets go of it, but waits for the library's own threads, which long prompts may
# hold; so texts that take less than a few milliseconds go the other way.
LONG_CHARS = 4000


class TextModel:
    """Text to tokens and back for one model; immutable, and safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, templates: dict[str, ChatTemplate], eos_token_ids: frozenset[int]) -> None:
        """`templates` by name: `default` and perhaps `tool_use`; the tokenizer belongs to this object from now on."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._templates = templates
        self._table = TokenBytes(tokenizer)
        added = tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.eos_token_ids = eos_token_ids

    @classmethod
    def load(cls, path: Path) -> "TextModel":
        """Read a folder with tokenizer.json; blocks for 0.1 s and more, so call it off the event loop.

        Raises `NotFound` or `InvalidArgument`, naming the file, when one is missing or damaged, and
        `NotImplementedByServer` when the tokenizer cannot be streamed.
        """
        tokenizer = _read_tokenizer(path / "tokenizer.json")
        config = read_object(path / "tokenizer_config.json")
        special_tokens = _special_tokens(read_object(path / "special_tokens_map.json") | config)
        templates = {
            name: ChatTemplate(source, special_tokens, origin)
            for name, (source, origin) in _template_sources(path, config).items()
        }
        return cls(tokenizer, templates, _eos_token_ids(path, tokenizer, special_tokens))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def has_chat_template(self) -> bool:
        return bool(self._templates)

    def encode(self, text: str, add_special: bool) -> list[int]:
        """Tokenize; blocks for about 1 ms per 1,000 tokens, so call it off the event loop for anything long.

        `add_special` adds what the tokenizer puts around a prompt (a BOS token): right for plain prompts, wrong for
        rendered chats, whose template writes it. Raises `InvalidArgument` for text that is not valid Unicode.
        """
        try:
            if len(text) <= LONG_CHARS:
                encoding = self._tokenizer.encode(text, add_special_tokens=add_special)
            else:
                (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special)
            ids: list[int] = encoding.ids
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidArgument("the text is not valid Unicode (it holds a lone surrogate)") from error
        return ids

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        """Render a chat for the model, up to where its answer begins.

        Raises `InvalidArgument` when the model has no chat template, or the template refuses the messages.
        """
        template = self._templates.get("tool_use") if tools else None
        template = template or self._templates.get("default")
        if template is None:
            message = "this model has no chat template; send a prompt to the completions API instead"
            raise InvalidArgument(message, param="messages")
        return template.render(messages, tools)

    def token_text(self, token_id: int) -> str:
        """Return one token's text as it stands inside a stream; part of a character is U+FFFD."""
        return self._table[token_id].decode("utf-8", "replace")

    def detokenizer(self, skip_special: bool = True) -> Detokenizer:
        """Return the state for one new stream."""
        return Detokenizer(self._table, self._special_ids if skip_special else frozenset())


def _read_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise NotFound(f"{path} is missing: a model needs a tokenizer.json to be served")
    source = read_text(path)
    try:
        return Tokenizer.from_str(source)
    except Exception as error:  # the library raises plain Exception for whatever it cannot parse
        raise InvalidArgument(f"{path} is damaged: {error}") from error


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Special tokens by name; each is given as a string or as an object with `content`."""
    tokens: dict[str, str] = {}
    for name in _SPECIAL_NAMES:
        value = config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            tokens[name] = value
    return tokens


def _template_sources(path: Path, config: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Template sources by name, each with the file that it comes from; files of their own win over the config."""
    inline = config.get("chat_template")
    origin = str(path / "tokenizer_config.json")
    named = [{"name": "default", "template": inline}] if isinstance(inline, str) else inline or []
    try:
        sources = {str(entry["name"]): (str(entry["template"]), origin) for entry in named}
    except (TypeError, KeyError) as error:
        raise InvalidArgument(f"{origin} is damaged: chat_template is neither text nor a list of templates") from error
    for file in [path / "chat_template.jinja", *sorted((path / "additional_chat_templates").glob("*.jinja"))]:
        if file.is_file():
            name = "default" if file.name == "chat_template.jinja" else file.stem
            sources[name] = (read_text(file), str(file))
    return sources


def _eos_token_ids(path: Path, tokenizer: Tokenizer, special_tokens: dict[str, str]) -> frozenset[int]:
    """Union of the end tokens that generation_config.json, config.json and the tokenizer name."""
    ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = read_object(path / name).get("eos_token_id")
        values = value if isinstance(value, list) else [value]
        ids.update(item for item in values if isinstance(item, int))
    eos_id = tokenizer.token_to_id(special_tokens.get("eos_token", ""))
    if eos_id is not None:
        ids.add(eos_id)
    return frozenset(ids)
