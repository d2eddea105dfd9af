"""What a packed model consists of: which tensors of a checkpoint make which part, and how it is stored.

Legend of the sizes: outputs × inputs of a linear layer, as a checkpoint has them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sagellm_engine.models.config import ModelConfig
from sagellm_engine.native.abi import WeightKind

LEAST_SCREENED = 1 << 26
"""Weights of an output layer from which a copy in INT8 is kept, two thirds of its memory again: with 136 million, 9 %
of a decode step are saved, with 28 million 5 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearPart:
    """A packed weight made of checkpoint tensors one below the other. `interleaved`: gate and up, see csrc/pack.h."""

    name: str
    tensors: tuple[tuple[str, int], ...]
    num_in: int
    kind: WeightKind
    interleaved: bool = False
    bias: bool = False

    @property
    def num_out(self) -> int:
        """Rows of the weight."""
        return sum(rows for _, rows in self.tensors)


@dataclass(frozen=True, slots=True)
class VectorPart:
    """An fp32 vector."""

    name: str
    tensor: str
    size: int


@dataclass(frozen=True, slots=True)
class LayerParts:
    """The parts of one layer."""

    qkv: LinearPart
    o: LinearPart
    gate_up: LinearPart
    down: LinearPart
    vectors: tuple[VectorPart, ...]

    def linears(self) -> tuple[LinearPart, ...]:
        """All linear layers, in the order they are used."""
        return (self.qkv, self.o, self.gate_up, self.down)


@dataclass(frozen=True, slots=True)
class ModelParts:
    """All parts of a model. `lm_head` is `embedding` where they are tied; `screen` is its copy in INT8, if it has one,
    which finds the likeliest token (csrc/screening.h)."""

    embedding: LinearPart
    lm_head: LinearPart
    screen: LinearPart | None
    norm: VectorPart
    layers: tuple[LayerParts, ...]

    def linears(self) -> Iterator[LinearPart]:
        """Every linear layer once, but for the screen."""
        yield self.embedding
        if self.lm_head is not self.embedding:
            yield self.lm_head
        for layer in self.layers:
            yield from layer.linears()

    def vectors(self) -> Iterator[VectorPart]:
        """Every vector."""
        yield self.norm
        for layer in self.layers:
            yield from layer.vectors


def model_parts(config: ModelConfig, kind: WeightKind) -> ModelParts:
    """Return the parts of a decoder whose linear layers are stored in one way.

    With INT4 the embedding and the output layer are INT8, as is usual: they are the most sensitive.
    """
    outer = WeightKind.INT8 if kind is WeightKind.INT4 else kind
    rows = (("model.embed_tokens", config.vocab_size),)
    embedding = LinearPart(name="embedding", tensors=rows, num_in=config.hidden_size, kind=outer)
    head = embedding
    if not config.tie_embeddings:
        head_rows = (("lm_head", config.vocab_size),)
        head = LinearPart(name="lm_head", tensors=head_rows, num_in=config.hidden_size, kind=outer)
    return ModelParts(
        embedding,
        head,
        replace(head, name="screen", kind=WeightKind.INT8) if _is_screened(config, kind) else None,
        VectorPart("norm", "model.norm.weight", config.hidden_size),
        tuple(_layer(config, i, kind) for i in range(config.num_layers)),
    )


def _is_screened(config: ModelConfig, kind: WeightKind) -> bool:
    return kind not in (WeightKind.INT8, WeightKind.INT4) and config.vocab_size * config.hidden_size >= LEAST_SCREENED


def _layer(config: ModelConfig, number: int, kind: WeightKind) -> LayerParts:
    hidden, inner = config.hidden_size, config.intermediate_size
    q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    source, name = f"model.layers.{number}.", f"layers.{number}."
    attention, mlp = source + "self_attn.", source + "mlp."

    def linear(part: str, num_in: int, *tensors: tuple[str, int], bias: bool, interleaved: bool = False) -> LinearPart:
        return LinearPart(
            name=name + part, tensors=tensors, num_in=num_in, kind=kind, bias=bias, interleaved=interleaved
        )

    vectors = [
        VectorPart(name + "input_norm", source + "input_layernorm.weight", hidden),
        VectorPart(name + "post_norm", source + "post_attention_layernorm.weight", hidden),
    ]
    if config.qk_norm:
        vectors += [VectorPart(f"{name}{x}_norm", f"{attention}{x}_norm.weight", config.head_dim) for x in "qk"]
    qkv = ((attention + "q_proj", q_size), (attention + "k_proj", kv_size), (attention + "v_proj", kv_size))
    gate_up = ((mlp + "gate_proj", inner), (mlp + "up_proj", inner))
    return LayerParts(
        qkv=linear("qkv", hidden, *qkv, bias=config.qkv_bias),
        o=linear("o", q_size, (attention + "o_proj", hidden), bias=config.o_bias),
        gate_up=linear("gate_up", hidden, *gate_up, bias=config.mlp_bias, interleaved=True),
        down=linear("down", inner, (mlp + "down_proj", hidden), bias=config.mlp_bias),
        vectors=tuple(vectors),
    )
