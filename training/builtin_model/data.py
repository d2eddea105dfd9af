"""Turns documents into rows of tokens with a weight for each token and the number of its document.

Legend: B rows, T positions. Document number 0 marks padding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from tokenizers import Tokenizer
from torch import Tensor

from builtin_model.chat import render
from builtin_model.corpus.document import Document
from builtin_model.corpus.mixture import documents
from builtin_model.tokenizer import END, END_OF_TEXT, START

PROMPT_WEIGHT = 0.1
DOCUMENTS_A_SHARD = 6_000


@dataclass(frozen=True)
class Batch:
    """Rows to train on: a token's weight says how much predicting it counts."""

    tokens_BT: Tensor
    weights_BT: Tensor
    documents_BT: Tensor

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Additive attention mask [B, 1, T, T]: a position sees its own document up to itself."""
        same_BTT = self.documents_BT[:, :, None] == self.documents_BT[:, None, :]
        size = self.tokens_BT.shape[1]
        seen_BTT = same_BTT & torch.ones(size, size, dtype=torch.bool).tril()
        return torch.zeros(seen_BTT.shape, dtype=dtype).masked_fill_(~seen_BTT, float("-inf"))[:, None]


class Weigher:
    """Gives answers full weight and what the model is told little."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        def token(text: str) -> int:
            return int(tokenizer.encode(text, add_special_tokens=False).ids[0])

        self.start, self.end, self.assistant = token(START), token(END), token("assistant")
        self.colon, self.newline, self.end_of_text = token(":"), token("\n"), token(END_OF_TEXT)

    def weigh(self, document: Document, ids: list[int]) -> list[float]:
        """One weight for each token of the document."""
        if not document.text:
            return self._chat(ids)
        if document.skill == "arithmetic":
            return self._results(ids)
        if document.skill == "copying":
            first_line = len(ids) // document.facts["times"]
            return [PROMPT_WEIGHT] * first_line + [1.0] * (len(ids) - first_line)
        return [1.0] * len(ids)

    def _chat(self, ids: list[int]) -> list[float]:
        weights, answering = [], False
        for position, token in enumerate(ids):
            if position >= 2 and ids[position - 2] == self.start and ids[position - 1] == self.assistant:
                answering = True
                weights.append(PROMPT_WEIGHT)
                continue
            weights.append(1.0 if answering else PROMPT_WEIGHT)
            answering = answering and token != self.end
        return weights

    def _results(self, ids: list[int]) -> list[float]:
        weights, answering = [], False
        for token in ids:
            weights.append(1.0 if answering or token == self.end_of_text else PROMPT_WEIGHT)
            answering = token == self.colon or (answering and token != self.newline)
        return weights


class Packer:
    """Fills rows of a fixed length with whole documents; a longer document is cut to the row."""

    def __init__(self, row_length: int) -> None:
        self.row_length = row_length
        self._open: list[list[tuple[list[int], list[float]]]] = []

    def add(self, ids: list[int], weights: list[float]) -> Iterator[list[tuple[list[int], list[float]]]]:
        """Puts a document into the fullest open row that has room; yields rows that are full."""
        piece = (ids[: self.row_length], weights[: self.row_length])
        rooms = [(self.row_length - _length(row), n) for n, row in enumerate(self._open)]
        fitting = [(room, n) for room, n in rooms if room >= len(piece[0])]
        if fitting:
            self._open[min(fitting)[1]].append(piece)
        else:
            self._open.append([piece])
        if len(self._open) > 24:
            fullest = max(range(len(self._open)), key=lambda n: _length(self._open[n]))
            yield self._open.pop(fullest)


def _length(row: list[tuple[list[int], list[float]]]) -> int:
    return sum(len(ids) for ids, _ in row)


def collate(rows: list[list[tuple[list[int], list[float]]]], row_length: int) -> Batch:
    """Rows of documents as tensors; the weight of a document's first token is 0, for nothing comes before it."""
    shape = (len(rows), row_length)
    tokens, weights, owners = torch.zeros(shape, dtype=torch.long), torch.zeros(shape), torch.zeros(shape)
    for r, row in enumerate(rows):
        at = 0
        for number, (ids, values) in enumerate(row, start=1):
            span = slice(at, at + len(ids))
            tokens[r, span] = torch.tensor(ids)
            weights[r, span] = torch.tensor([0.0, *values[1:]])
            owners[r, span] = number
            at += len(ids)
    return Batch(tokens, weights, owners)


def encode_shard(tokenizer: Tokenizer, seed: str, shard: int) -> list[tuple[list[int], list[float]]]:
    """The documents of one shard as tokens and weights, always the same for a seed and a number."""
    drawn = list(islice(documents(f"{seed}/{shard}"), DOCUMENTS_A_SHARD))
    weigher = Weigher(tokenizer)
    encoded = tokenizer.encode_batch([render(document) for document in drawn], add_special_tokens=False)
    return [(e.ids, weigher.weigh(d, e.ids)) for d, e in zip(drawn, encoded, strict=True)]


def batches(tokenizer: Tokenizer, seed: str, shard: int, row_length: int, num_rows: int) -> Iterator[tuple[int, Batch]]:
    """Batches without end, beginning with a shard, each with the number of the shard it comes from."""
    packer, rows = Packer(row_length), []
    while True:
        for ids, weights in encode_shard(tokenizer, seed, shard):
            for row in packer.add(ids, weights):
                rows.append(row)
                if len(rows) == num_rows:
                    yield shard, collate(rows, row_length)
                    rows = []
        shard += 1
