"""Model cards: what a service must know to serve a model, read from its files."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sagellm_common.contracts.registry import ModelCard, ModelInfo
from sagellm_common.errors import InvalidArgument
from sagellm_registry.disk import CONFIG, weight_files
from sagellm_registry.safetensors_header import read_header

_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "n_ctx")
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


def read_card(model: ModelInfo) -> ModelCard:
    """Read the card of a model; raises InvalidArgument that names the file at fault."""
    folder = Path(model.path)
    config = _read_json(folder / CONFIG)
    inner = config.get("text_config")
    text = {**config, **inner} if isinstance(inner, dict) else config
    generation = _read_optional(folder / "generation_config.json")
    tokenizer = _read_optional(folder / "tokenizer_config.json")
    elements = _elements(folder)
    return ModelCard(
        model_id=model.model_id,
        revision=model.revision,
        path=model.path,
        architecture=_architecture(folder, config),
        max_model_len=_max_model_len(folder, text),
        vocab_size=_positive(folder, text, "vocab_size"),
        eos_token_ids=_eos_ids(folder, text, generation, tokenizer),
        bos_token_id=_one_id(text.get("bos_token_id")),
        has_chat_template=_has_chat_template(folder, tokenizer),
        dtype=_dtype(text, elements),
        parameters=sum(elements.values()),
        size=model.size,
        tags=model.tags,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidArgument(f"{path} holds no JSON object")
    return body


def _read_optional(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.is_file() else {}


def _architecture(folder: Path, config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise InvalidArgument(f"{folder / CONFIG} names no architecture in `architectures`")
    return names[0]


def _positive(folder: Path, config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidArgument(f"{folder / CONFIG}: `{key}` is {value!r}, not a positive number")
    return value


def _max_model_len(folder: Path, config: Mapping[str, Any]) -> int:
    key = next((key for key in _LENGTH_KEYS if key in config), _LENGTH_KEYS[0])
    return _positive(folder, config, key)


def _elements(folder: Path) -> Counter[str]:
    """Elements per dtype over all weight files."""
    elements: Counter[str] = Counter()
    for file in weight_files(folder):
        elements.update(read_header(file).elements)
    return elements


def _dtype(config: Mapping[str, Any], elements: Counter[str]) -> str:
    declared = config.get("dtype") or config.get("torch_dtype")
    if isinstance(declared, str):
        return declared
    most = elements.most_common(1)[0][0] if elements else ""
    return _DTYPES.get(most, most.lower())


def _eos_ids(
    folder: Path, config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> tuple[int, ...]:
    """Ids that end a text: of the generation config, else of the config; and the tokenizer's own end token."""
    declared = generation.get("eos_token_id", config.get("eos_token_id"))
    ids = [declared] if isinstance(declared, int) else [i for i in declared or () if isinstance(i, int)]
    token = tokenizer.get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    own = _added_token_id(folder, tokenizer, text) if isinstance(text, str) else None
    return tuple(dict.fromkeys([*ids, *([own] if own is not None else [])]))


def _added_token_id(folder: Path, tokenizer: Mapping[str, Any], text: str) -> int | None:
    for number, entry in (tokenizer.get("added_tokens_decoder") or {}).items():
        if entry.get("content") == text:
            return int(number)
    for entry in _read_optional(folder / "tokenizer.json").get("added_tokens") or ():
        if entry.get("content") == text:
            return int(entry["id"])
    return None


def _one_id(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _has_chat_template(folder: Path, tokenizer: Mapping[str, Any]) -> bool:
    files = ("chat_template.jinja", "chat_template.json")
    return bool(tokenizer.get("chat_template")) or any((folder / name).is_file() for name in files)
