"""Turns documents into batches of tokens with a weight for each token. Legend: T positions."""

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
    """Documents one after the other: a token's weight says how much predicting it counts."""

    tokens_T: Tensor
    weights_T: Tensor
    lengths: list[int]


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


def collate(documents: list[tuple[list[int], list[float]]], num_tokens: int) -> Batch:
    """Documents as tensors, filled up with tokens that count nothing, so that every batch has the same size.

    The weight of a document's first token is 0, for nothing comes before it.
    """
    room = num_tokens - sum(len(ids) for ids, _ in documents)
    filled = [*documents, ([0] * room, [0.0] * room)] if room else documents
    tokens = [token for ids, _ in filled for token in ids]
    weights = [weight for _, values in filled for weight in (0.0, *values[1:])]
    return Batch(torch.tensor(tokens), torch.tensor(weights), [len(ids) for ids, _ in filled])


def encode_shard(tokenizer: Tokenizer, seed: str, shard: int) -> list[tuple[list[int], list[float]]]:
    """The documents of one shard as tokens and weights, always the same for a seed and a number."""
    drawn = list(islice(documents(f"{seed}/{shard}"), DOCUMENTS_A_SHARD))
    weigher = Weigher(tokenizer)
    encoded = tokenizer.encode_batch([render(document) for document in drawn], add_special_tokens=False)
    return [(e.ids, weigher.weigh(d, e.ids)) for d, e in zip(drawn, encoded, strict=True)]


def batches(tokenizer: Tokenizer, seed: str, shard: int, num_tokens: int) -> Iterator[tuple[int, Batch]]:
    """Batches without end, beginning with a shard, each with the number of the shard it comes from.

    A batch has as many whole documents as fit into the tokens; a longer document is cut.
    """
    held: list[tuple[list[int], list[float]]] = []
    room = num_tokens
    while True:
        for ids, weights in encode_shard(tokenizer, seed, shard):
            document = ids[:num_tokens], weights[:num_tokens]
            if len(document[0]) > room:
                yield shard, collate(held, num_tokens)
                held, room = [], num_tokens
            held.append(document)
            room -= len(document[0])
        shard += 1
