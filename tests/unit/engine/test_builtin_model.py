"""The engine on the model that ships: real text, real weights, in bf16 on the disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

import sagellm_registry
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.types import FinishReason
from sagellm_engine.inprocess import LocalEngine
from support.engine import Result, request, run
from support.tiny_models import reference_logits

FOLDER = Path(sagellm_registry.__file__).parent / "builtin" / "sage-tiny"
QUESTIONS = [
    "Tell me a story about a fox and a lamp.",
    "What is 17 plus 25?",
    "Give me JSON with a name and an age for someone you make up.",
    "Hello!",
]


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    """The built-in model in-process."""
    with LocalEngine(EngineConfig(model_path=FOLDER, backend="cpu", num_pages=512)) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Chat prompts as the template writes them."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    texts = [f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n" for question in QUESTIONS]
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def answers(engine: LocalEngine, prompts: list[list[int]]) -> list[Result]:
    """Answer greedily, as a batch."""
    return run(engine.core, [request(prompt, max_tokens=120, logprobs=1) for prompt in prompts])


def test_answers_are_the_references(engine: LocalEngine, prompts: list[list[int]]) -> None:
    """Alone and batched the tokens are those of transformers in fp32 wherever its choice is clear."""
    model = LlamaForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    batched = answers(engine, prompts)
    alone = [answers(engine, [prompt])[0] for prompt in prompts]
    for prompt, one, other in zip(prompts, batched, alone, strict=True):
        for result in (one, other):
            logits = reference_logits(model, prompt + result.tokens)[len(prompt) - 1 : -1]
            best = logits.topk(2, dim=-1)
            clear = best.values[:, 0] - best.values[:, 1] > 1e-3
            chosen = torch.tensor(result.tokens)
            assert torch.equal(chosen[clear], best.indices[:, 0][clear])


def test_answers_end_by_themselves(engine: LocalEngine, prompts: list[list[int]]) -> None:
    """The trained model ends a short answer with its end token."""
    [greeting] = answers(engine, [prompts[1]])
    assert greeting.finish is FinishReason.STOP
    assert greeting.tokens[-1] in engine.core.info.eos_token_ids


def test_prompts_share_their_prefix(engine: LocalEngine, prompts: list[list[int]]) -> None:
    """A conversation that goes on finds what it has in common in the prefix cache, to the page."""
    [first] = answers(engine, [prompts[0]])
    longer = prompts[0] + first.tokens + prompts[1]
    [second] = answers(engine, [longer])
    assert second.cached_tokens >= (len(prompts[0]) + len(first.tokens) - 1) // 16 * 16
