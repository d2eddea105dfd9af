"""What the machine would allow: tokens a second at the best rates measured (Williams et al., 2009)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.session import WORKLOADS


@dataclass(frozen=True, slots=True)
class Mode:
    """How an engine computes: bytes a weight, the limits of its products and its attention, bytes of a KV number."""

    weight_bytes: float
    product: str
    attention: str
    kv_bytes: int


MODES = {
    "sageLLM, bf16": Mode(2, "bf16", "bf16", 2),
    "sageLLM, fp32 activations": Mode(2, "fp32", "fp32", 4),
    "sageLLM, INT8": Mode(1, "int8", "bf16", 2),
    "sageLLM, INT4": Mode(18 / 32, "int4", "bf16", 2),
}


def tokens_per_s(
    config: Mapping[str, Any],
    workload: str,
    mode: Mode,
    limits: Mapping[str, float],
    read_bytes: float | None = None,
    *,
    screens: bool = False,
) -> float:
    """Prefill at the rate of products and attention; each decode step at that, or as fast as its bytes are read.

    Of a prompt but its last token, the last layer's keys and values are all that anyone reads. `read_bytes`: of the
    weights that a step reads, where it is known; else the mode tells. `screens`: tokens are found by a copy of the
    output layer in INT8.
    """
    number, length, made = WORKLOADS[workload]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    dim = hidden // heads
    behind_keys = 2 * hidden * hidden + 3 * hidden * inner
    weights = layers * (behind_keys + 2 * hidden * kv_heads * dim)
    head = config["vocab_size"] * hidden
    stored = read_bytes or (weights + head) * mode.weight_bytes
    product = limits.get(mode.product, limits["fp32"]) * 1e9
    head_s = number * 2 * head / (limits["int8"] * 1e9 if screens else product)
    attention = limits.get(mode.attention, limits["fp32"]) * 1e9
    per_key = 4 * heads * dim * layers
    seconds = number * 2 * (weights * length - behind_keys * (length - 1)) / product + head_s
    seconds += number * per_key * (length**2 / 2 * (layers - 1) + length) / layers / attention
    for step in range(1, made):
        keys = number * (length + step)
        compute = number * 2 * weights / product + head_s + per_key * keys / attention
        read = stored + keys * 2 * kv_heads * dim * layers * mode.kv_bytes
        seconds += max(compute, read / (limits["read"] * 1e9))
    tokens = number * (made + (length if workload == "W4" else 0))
    return float(tokens / seconds)
