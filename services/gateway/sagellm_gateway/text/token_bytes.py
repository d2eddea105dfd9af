"""The bytes that each token stands for: computed once per token, then looked up.

A token's bytes may depend on whether it is the first of a stream (SentencePiece strips the leading space there), and
on nothing else. Decoders for which that does not hold (CTC, BPEDecoder) cannot be streamed and are refused.
"""

import json
import re
from typing import Any

from tokenizers import Tokenizer

from sagellm_common.errors import NotImplementedByServer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
_LOCAL_DECODERS = {"ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece"}


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: a printable character for each byte (openai/gpt-2, encoder.py, bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET = _byte_level_alphabet()


def decoder_steps(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return the tokenizer's decoder as a flat list of steps, as tokenizer.json describes them."""
    if tokenizer.decoder is None:
        return []
    state = json.loads(tokenizer.decoder.__getstate__())
    return _flatten(state)


def _flatten(state: dict[str, Any]) -> list[dict[str, Any]]:
    if state["type"] != "Sequence":
        return [state]
    return [step for inner in state["decoders"] for step in _flatten(inner)]


class TokenBytes(dict[int, bytes]):
    """Token id → its bytes inside a stream; an unknown id is `b""`. Filled on first use.

    Raises `NotImplementedByServer` for a decoder that cannot be streamed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        steps = decoder_steps(tokenizer)
        kinds = [step["type"] for step in steps]
        _refuse_unstreamable(steps)
        self.is_byte_level = kinds == ["ByteLevel"]
        self._byte_fallback = "ByteFallback" in kinds
        if not self.is_byte_level:
            self._anchor = self._find_anchor()
            self._anchor_text = self._decode([self._anchor])

    def __missing__(self, token_id: int) -> bytes:
        token = self._token(token_id)
        if token is None:
            return b""
        value = self[token_id] = self._bytes(token_id, token)
        return value

    def knows(self, token_id: int) -> bool:
        """Whether there is such a token."""
        return token_id in self or self._token(token_id) is not None

    def first(self, token_id: int) -> bytes:
        """Return the bytes of a token that opens a stream."""
        inside = self[token_id]
        part_of_character = len(inside) == 1 and inside[0] >= 0x80
        if self.is_byte_level or part_of_character:
            return inside
        return self._decode([token_id]).encode()

    def _token(self, token_id: int) -> str | None:
        token: str | None = self._tokenizer.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        return token

    def _bytes(self, token_id: int, token: str) -> bytes:
        if self.is_byte_level:
            return byte_level_bytes(token)
        if self._byte_fallback and (match := _BYTE_TOKEN.match(token)):
            return bytes((int(match[1], 16),))
        return self._decode([self._anchor, token_id]).removeprefix(self._anchor_text).encode()

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=False)
        return text

    def _find_anchor(self) -> int:
        """A token with visible text, to stand before another one while that one is decoded."""
        for token, token_id in self._tokenizer.get_vocab().items():
            if token.isascii() and token.isalnum():
                return int(token_id)
        return 0


def byte_level_bytes(token: str) -> bytes:
    """Return the bytes of a byte-level token; one with characters outside the alphabet stands for itself."""
    try:
        return bytes(map(_ALPHABET.__getitem__, token))
    except KeyError:
        return token.encode()


def _refuse_unstreamable(steps: list[dict[str, Any]]) -> None:
    for step in steps:
        mixed = step["type"] == "ByteLevel" and len(steps) > 1
        if step["type"] not in _LOCAL_DECODERS or step.get("stop") or mixed:
            names = ", ".join(other["type"] for other in steps)
            raise NotImplementedByServer(f"the tokenizer's decoder ({names}) cannot be streamed by this server")
