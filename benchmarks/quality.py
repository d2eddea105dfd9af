"""What quantization costs: the built-in model in each of the CPU engine's modes, beside the lossless one.

Per mode perplexity and KL divergence (of the mode's distribution from the lossless one, nats a token) over held-out
documents, the share of right greedy answers by skill, and perplexity and KL divergence of the same model with
outlier channels. Goals: INT8 has a KL divergence under 0.01, with outlier channels too, and all accuracies within half
a point of the lossless ones.
"""

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.outliers import with_outliers
from builtin_model.chat import render
from builtin_model.corpus.mixture import WRITERS, questions
from builtin_model.corpus.split import Split, seeded
from builtin_model.judge import JUDGES
from builtin_model.presets import BUILTIN_FOLDER
from sagellm_engine.backends.native_loader import load_native_runner
from sagellm_engine.backends.native_runner import NativeRunner
from sagellm_engine.core.config import EngineConfig
from sagellm_engine.core.sequence import SequenceState
from sagellm_engine.core.types import EngineRequest, SamplingParams
from sagellm_engine.inprocess import LocalEngine
from sagellm_engine.kv.pool import PAGE_SIZE

MODEL = BUILTIN_FOLDER / "sage-tiny"
LOSSLESS = "lossless"
MODES: dict[str, dict[str, Any]] = {
    LOSSLESS: {"dtype": "float32"},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
    "int8-kv": {"dtype": "float32", "kv_cache_dtype": "int8"},
    "int8+int8-kv": {"quantization": "int8", "kv_cache_dtype": "int8"},
}
NUM_TOKENS = 20_000
TEXT_TOKENS = 512
CASES = 500
MOST_NEW_TOKENS = 224
MAX_MODEL_LEN = 2048
NUM_PAGES = 2048


def run() -> dict[str, Any]:
    """Measure every mode, on one thread."""
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    texts = held_out_tokens(tokenizer, NUM_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        copy = with_outliers(MODEL, Path(folder) / "outliers")
        modes = {mode: measure(mode, copy, texts, tokenizer) for mode in MODES}
    return {"modes": modes, "tokens": sum(map(len, texts)), "cases": CASES}


def measure(mode: str, copy: Path, texts: list[list[int]], tokenizer: Tokenizer) -> dict[str, Any]:
    """All figures of one mode; `copy` is the model with outlier channels."""
    lossless = load(MODEL, LOSSLESS)
    result = {
        **compare(load(MODEL, mode), lossless, texts),
        "accuracy": accuracies(mode, tokenizer),
        "outliers": compare(load(copy, mode), lossless, texts),
    }
    print(f"{mode}: {result}", flush=True)
    return result


def held_out_tokens(tokenizer: Tokenizer, num_tokens: int) -> list[list[int]]:
    """Tokens of documents of all skills in the corpus' shares, held out of training, each cut at `TEXT_TOKENS`."""
    rng = seeded("held-out documents")
    writers, weights = zip(*WRITERS, strict=True)
    texts: list[list[int]] = []
    while sum(map(len, texts)) < num_tokens:
        document = rng.choices(writers, weights)[0](rng, Split.HELD_OUT)
        texts.append(tokenizer.encode(render(document), add_special_tokens=False).ids[:TEXT_TOKENS])
    return texts


def engine_config(folder: Path, mode: str) -> EngineConfig:
    """A mode's engine on one thread, with pages for all cases that are answered at once."""
    common: dict[str, Any] = {"num_pages": NUM_PAGES, "max_model_len": MAX_MODEL_LEN, "num_threads": 1}
    return EngineConfig(model_path=folder, backend="cpu", kernels="native", **common, **MODES[mode])


def load(folder: Path, mode: str) -> NativeRunner:
    """The kernels on a model in one mode."""
    return load_native_runner(engine_config(folder, mode), max_batch_tokens=TEXT_TOKENS, free_bytes=lambda: 0)


def logits_of(runner: NativeRunner, tokens: list[int]) -> Tensor:
    """Logits [tokens, vocabulary] after each token of a text, computed in one step through the pages."""
    request = EngineRequest(key=("text", 0), prompt_token_ids=tokens, sampling=SamplingParams(max_tokens=1))
    row = SequenceState(request, 0, stop_ids=frozenset(), max_model_len=MAX_MODEL_LEN, order=0)
    row.pages = list(range(-(-len(tokens) // PAGE_SIZE)))
    row.num_scheduled = len(tokens)
    return runner.all_logits(row)


def compare(runner: NativeRunner, lossless: NativeRunner, texts: list[list[int]]) -> dict[str, float]:
    """Perplexity from the second token of each text on, and mean KL(lossless ‖ mode) over all positions."""
    surprise = divergence = 0.0
    for tokens in texts:
        ours, exact = (logits_of(r, tokens).double().log_softmax(-1) for r in (runner, lossless))
        surprise -= float(ours[:-1].gather(-1, torch.tensor(tokens[1:])[:, None]).sum())
        divergence += float((exact.exp() * (exact - ours)).sum())
    num_tokens = sum(map(len, texts))
    perplexity = math.exp(surprise / (num_tokens - len(texts)))
    return {"perplexity": round(perplexity, 4), "kl": round(divergence / num_tokens, 6)}


def accuracies(mode: str, tokenizer: Tokenizer, cases: int = CASES) -> dict[str, float]:
    """The share of right greedy answers, by skill."""
    with LocalEngine(engine_config(MODEL, mode)) as engine:
        return {skill: accuracy(engine, tokenizer, skill, cases) for skill in JUDGES}


def accuracy(engine: LocalEngine, tokenizer: Tokenizer, skill: str, cases: int) -> float:
    """The share of a skill's held-out questions whose greedy answer is right."""
    asked = questions(skill, cases)
    prompts = [tokenizer.encode(render(q, add_generation_prompt=True)).ids for q in asked]
    answers = engine.generate(prompts, SamplingParams(max_tokens=MOST_NEW_TOKENS, temperature=0.0))
    right = sum(JUDGES[skill](q, text_of(engine, tokenizer, a)) for q, a in zip(asked, answers, strict=True))
    return round(right / cases, 4)


def text_of(engine: LocalEngine, tokenizer: Tokenizer, tokens: list[int]) -> str:
    """An answer's text without its end token."""
    kept = [token for token in tokens if token not in engine.core.info.eos_token_ids]
    text: str = tokenizer.decode(kept, skip_special_tokens=False)
    return text
