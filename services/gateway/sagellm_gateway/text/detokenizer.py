"""Incremental detokenization: token ids in, whole characters out.

The text of a stream, whatever its chunks, is the tokenizer's decode of all its ids. One exception: a run of
SentencePiece byte tokens that is not valid UTF-8 loses only its wrong bytes, where a full decode loses the whole run.
"""

from codecs import utf_8_decode
from collections.abc import Collection, Iterable

from sagellm_gateway.text.token_bytes import TokenBytes


class Detokenizer:
    """State of one stream: the bytes of a character that has begun and not ended (at most 3)."""

    __slots__ = ("_pending", "_skip", "_started", "_table")

    def __init__(self, table: TokenBytes, skip: Collection[int] = ()) -> None:
        """Decode by `table`; ids in `skip` (a set: the special tokens) leave no text."""
        self._table = table
        self._skip = skip
        self._pending = b""
        self._started = table.is_byte_level

    def push(self, token_ids: Iterable[int]) -> str:
        """Take tokens, return the characters that are complete with them."""
        if not self._started:
            token_ids = self._start(token_ids)
        table, skip = self._table, self._skip
        data = self._pending + b"".join([table[i] for i in token_ids if i not in skip])
        text, used = utf_8_decode(data, "replace", False)
        self._pending = data[used:]
        return text

    def flush(self) -> str:
        """End the stream: a character that never ended becomes U+FFFD."""
        text = self._pending.decode("utf-8", "replace")
        self._pending = b""
        return text

    def _start(self, token_ids: Iterable[int]) -> list[int]:
        """Take the token that opens the stream, return the rest."""
        rest = list(token_ids)
        while rest and not self._started:
            token_id = rest.pop(0)
            if token_id not in self._skip and self._table.knows(token_id):
                self._pending = self._table.first(token_id)
                self._started = True
        return rest
