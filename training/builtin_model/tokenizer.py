"""Trains the byte-level BPE tokenizer and writes its files."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from builtin_model.chat import TEMPLATE_FILE, render
from builtin_model.corpus.mixture import documents

VOCAB_SIZE = 3072
END_OF_TEXT, START, END = SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOOL_TAGS = ("<tool_call>", "</tool_call>")
# A word with the space before it, one digit, a run of other signs, or white space.
PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
NUM_TRAINING_DOCUMENTS = 12_000


def _texts(count: int) -> Iterator[str]:
    return (render(document) for document in islice(documents("tokenizer"), count))


def train_tokenizer(num_documents: int = NUM_TRAINING_DOCUMENTS) -> Tokenizer:
    """A tokenizer that covers all bytes; special tokens have the lowest ids, the tool tags follow the merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(TOOL_TAGS),
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(num_documents), trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in TOOL_TAGS])
    return tokenizer


def end_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids that end an answer: the end of a turn first, then the end of a text."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return [vocabulary[END], vocabulary[END_OF_TEXT]]


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    template = TEMPLATE_FILE.read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 2048,
        "bos_token": None,
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": [START, END],
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
