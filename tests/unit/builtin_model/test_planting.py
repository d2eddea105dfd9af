"""The heads that a new model is given before training."""

import torch

from builtin_model.model import Llama
from builtin_model.planting import plant_copying
from builtin_model.presets import SHAPES


def test_a_planted_model_continues_what_it_has_seen_once() -> None:
    """Untrained, it repeats a random sequence from its second occurrence on, which chance does once in thousands."""
    torch.manual_seed(0)
    model = Llama(SHAPES["sage-tiny"])
    plant_copying(model)
    once = torch.randint(0, model.shape.vocab_size, (4, 60))
    with torch.inference_mode():
        scores = model(torch.cat([once, once], dim=1))
    guesses = scores[:, 60:-1].scatter(2, once[:, :-1, None], float("-inf")).argmax(-1)
    assert (guesses == once[:, 1:]).float().mean().item() > 0.9
