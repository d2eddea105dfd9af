"""Greedy answers of an exported model to many questions at once, through transformers."""

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from builtin_model.chat import render
from builtin_model.corpus.document import Document
from builtin_model.tokenizer import end_ids

ROWS_AT_ONCE = 64
MOST_NEW_TOKENS = 224


@dataclass(frozen=True)
class Answer:
    """A question's tokens, and the tokens and the text of the answer; the text has no end token."""

    prompt: list[int]
    tokens: list[int]
    text: str


class Responder:
    """An exported model with its tokenizer, in float32."""

    def __init__(self, folder: Path, tokenizer_folder: Path | None = None) -> None:
        self.tokenizer = Tokenizer.from_file(str((tokenizer_folder or folder) / "tokenizer.json"))
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.ends = end_ids(self.tokenizer)
        self.padding = self.ends[-1]

    def answer(self, questions: list[Document], most_new_tokens: int = MOST_NEW_TOKENS) -> list[Answer]:
        """One greedy answer for each question, in the order of the questions."""
        prompts = [self.tokenizer.encode(render(q, add_generation_prompt=True)).ids for q in questions]
        order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
        answers: dict[int, Answer] = {}
        for first in track(range(0, len(order), ROWS_AT_ONCE), "Answering", transient=True):
            chosen = order[first : first + ROWS_AT_ONCE]
            for n, tokens in zip(chosen, self._greedy([prompts[n] for n in chosen], most_new_tokens), strict=True):
                answers[n] = Answer(prompts[n], tokens, self._text(tokens))
        return [answers[n] for n in range(len(prompts))]

    def _greedy(self, prompts: list[list[int]], most_new_tokens: int) -> list[list[int]]:
        longest = max(map(len, prompts))
        tokens = torch.tensor([[self.padding] * (longest - len(p)) + p for p in prompts])
        seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        with torch.inference_mode():
            output = self.model.generate(tokens, attention_mask=seen, do_sample=False, max_new_tokens=most_new_tokens)
        return [self._until_end(row) for row in output[:, longest:].tolist()]

    def _until_end(self, tokens: list[int]) -> list[int]:
        ended = [n for n, token in enumerate(tokens) if token in self.ends]
        return tokens[: ended[0] + 1] if ended else tokens

    def _text(self, tokens: list[int]) -> str:
        kept = tokens[:-1] if tokens and tokens[-1] in self.ends else tokens
        text: str = self.tokenizer.decode(kept, skip_special_tokens=False)
        return text

    def scores(self, tokens: list[int]) -> Tensor:
        """Vocabulary scores [T, V] for the token after each of the tokens."""
        with torch.inference_mode():
            logits: Tensor = self.model(torch.tensor([tokens])).logits[0]
        return logits
