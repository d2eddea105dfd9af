"""The CUDA backend computes what transformers computes, in fp32, and serves in bf16."""

import random
from pathlib import Path

import pytest
import torch

from sagellm_engine.core.config import EngineConfig
from sagellm_engine.factory import create_engine
from support.engine import drain, request, run
from support.tiny_models import TINY_MODELS, VOCAB_SIZE, make_tiny_model, reference_logits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

MARGIN = 1e-3


@pytest.mark.parametrize("name", TINY_MODELS)
@pytest.mark.parametrize("options", [{}, {"max_batch_tokens": 13, "max_num_seqs": 8}, {"num_pages": 12}], ids=str)
def test_parity(name: str, options: dict[str, int], tmp_path: Path) -> None:
    """Mixed batches, chunked prefill and preemption give the reference's tokens wherever those are clear."""
    model = make_tiny_model(name, tmp_path).cuda()
    settings = {"num_pages": 128, "max_model_len": 160, **options}
    core = create_engine(EngineConfig(model_path=tmp_path, backend="cuda", dtype="float32", **settings))  # type: ignore[arg-type]
    rng = random.Random(0)
    prompts = [[rng.randrange(2, VOCAB_SIZE) for _ in range(length)] for length in (1, 16, 33, 60, 90)]
    results = run(core, [request(prompt, max_tokens=24, ignore_eos=True, logprobs=1) for prompt in prompts])
    for prompt, result in zip(prompts, results, strict=True):
        logits = reference_logits(model, prompt + result.tokens)[len(prompt) - 1 : -1]
        best = logits.topk(2, dim=-1)
        for i, token in enumerate(result.tokens):
            if best.values[i, 0] - best.values[i, 1] > MARGIN:
                assert token == int(best.indices[i, 0])
            assert abs(result.logprobs[i].logprob - float(logits[i].log_softmax(-1)[token])) < 1e-3


def test_seeded_stream_in_bf16(tmp_path: Path) -> None:
    """In bf16 a seeded request draws the same tokens twice, and every page comes back."""
    make_tiny_model("llama", tmp_path)
    core = create_engine(EngineConfig(model_path=tmp_path, backend="cuda", dtype="bfloat16", num_pages=128))
    item = {"max_tokens": 30, "temperature": 0.9, "top_p": 0.9, "seed": 3, "ignore_eos": True}
    first, second = (run(core, [request([4, 5, 6], **item)])[0] for _ in range(2))
    assert first.tokens == second.tokens
    drain(core)
