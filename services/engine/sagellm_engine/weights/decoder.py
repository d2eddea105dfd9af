"""The weights of a decoder, fused where one matrix product serves several projections."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sagellm_engine.layers.linear import Linear, linear_for
from sagellm_engine.models.config import ModelConfig
from sagellm_engine.weights.checkpoint import Checkpoint


@dataclass(slots=True)
class LayerWeights:
    """One layer. `qkv` gives queries, keys, values side by side; `gate_up` gate and up."""

    input_norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Linear
    post_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(slots=True)
class DecoderWeights:
    """All of a decoder's weights, contiguous, on one device."""

    embedding: Tensor
    layers: list[LayerWeights]
    norm: Tensor
    lm_head: Linear


class WeightLoader:
    """Copies a checkpoint's tensors into fused ones of the wanted type and device."""

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self._config = config
        self._dtype = dtype
        self._device = device
        self._make_linear = linear_for(device)

    def load(self) -> DecoderWeights:
        """Load everything; raises InvalidArgument for a missing or misshapen tensor."""
        config = self._config
        embedding = self._tensor("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
        tied = config.tie_embeddings
        head = embedding if tied else self._tensor("lm_head.weight", config.vocab_size, config.hidden_size)
        return DecoderWeights(
            embedding=embedding,
            layers=[self._layer(f"model.layers.{i}.") for i in range(config.num_layers)],
            norm=self._tensor("model.norm.weight", config.hidden_size),
            lm_head=self._make_linear(head, None),
        )

    def _layer(self, prefix: str) -> LayerWeights:
        config = self._config
        hidden, q_size = config.hidden_size, config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        qkv = [(attention + "q_proj", q_size), (attention + "k_proj", kv_size), (attention + "v_proj", kv_size)]
        gate_up = [(mlp + "gate_proj", config.intermediate_size), (mlp + "up_proj", config.intermediate_size)]

        def head_norm(name: str) -> Tensor | None:
            return self._tensor(attention + name + ".weight", config.head_dim) if config.qk_norm else None

        return LayerWeights(
            input_norm=self._tensor(prefix + "input_layernorm.weight", hidden),
            qkv=self._linear(qkv, hidden, config.qkv_bias),
            q_norm=head_norm("q_norm"),
            k_norm=head_norm("k_norm"),
            o=self._linear([(attention + "o_proj", hidden)], q_size, config.o_bias),
            post_norm=self._tensor(prefix + "post_attention_layernorm.weight", hidden),
            gate_up=self._linear(gate_up, hidden, config.mlp_bias),
            down=self._linear([(mlp + "down_proj", hidden)], config.intermediate_size, config.mlp_bias),
        )

    def _linear(self, parts: Sequence[tuple[str, int]], num_in: int, with_bias: bool) -> Linear:
        num_out = sum(size for _, size in parts)
        weight = self._empty(num_out, num_in)
        bias = self._empty(num_out) if with_bias else None
        start = 0
        for name, size in parts:
            self._checkpoint.copy_into(weight[start : start + size], name + ".weight")
            if bias is not None:
                self._checkpoint.copy_into(bias[start : start + size], name + ".bias")
            start += size
        return self._make_linear(weight, bias)

    def _tensor(self, name: str, *shape: int) -> Tensor:
        target = self._empty(*shape)
        self._checkpoint.copy_into(target, name)
        return target

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._device)
