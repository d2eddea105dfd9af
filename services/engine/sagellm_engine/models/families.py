"""What tells one family of decoders from another: a table, not a copy of the code per model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyFacts:
    """How a family departs from plain Llama.

    `qkv_bias` and `o_bias`: True or False, or the name of the configuration field that says so. `qk_norm`: queries
    and keys are normalised per head before they are rotated. `head_dim` is what holds where the configuration names
    none; None: hidden size / heads.
    """

    qkv_bias: bool | str
    o_bias: bool | str
    mlp_bias: bool | str = False
    qk_norm: bool = False
    head_dim: int | None = None


FAMILIES: dict[str, FamilyFacts] = {
    "llama": FamilyFacts(qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias"),
    "qwen2": FamilyFacts(qkv_bias=True, o_bias=False),
    "qwen3": FamilyFacts(qkv_bias="attention_bias", o_bias="attention_bias", qk_norm=True, head_dim=128),
}
"""By `model_type` of config.json."""
