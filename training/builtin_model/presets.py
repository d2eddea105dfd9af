"""The two models that are trained here: the one that answers and the one that drafts for it."""

from pathlib import Path

from builtin_model.model import ModelShape
from builtin_model.tokenizer import VOCAB_SIZE

BUILTIN_FOLDER = Path(__file__).parents[2] / "services" / "registry" / "sagellm_registry" / "builtin"
SHAPES = {
    "sage-tiny": ModelShape(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
    ),
    "sage-tiny-draft": ModelShape(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
    ),
}
